"""The certificate that the streams are encrypted with, and its renewal.

Triton 2.51 reads certificate, key and authorities when it starts, and never again. So a renewed file is told in the
log: the server has to be started again to take it up, which lets live streams end first.
"""

from __future__ import annotations

import logging

from csm_model.errors import InputError
from csm_model.files import digest_of_file, stamp_of
from csm_serving.client.access import read_authorities, read_pair
from csm_serving.settings import ServingSettings

log = logging.getLogger(__name__)


def encrypting(settings: ServingSettings) -> list[str]:
    """Triton's options for the certificates that `settings` name; none where they name none.

    Raises:
        InputError: only one of a pair is set, a file cannot be read, or the key is another certificate's.
    """
    certificate, key, authorities = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if certificate is None and key is None and authorities is None:
        return []
    if certificate is None or key is None:
        raise InputError(
            "tls_cert and tls_key go together, and tls_client_ca with both: set CSM_SERVING_TLS_CERT and "
            "CSM_SERVING_TLS_KEY"
        )
    read_pair(certificate, key, "tls_cert, tls_key")
    mutual = authorities is not None
    options = [
        f"--grpc-use-ssl{'-mutual' if mutual else ''}=true",
        f"--grpc-server-cert={certificate.absolute()}",
        f"--grpc-server-key={key.absolute()}",
    ]
    if authorities is not None:
        read_authorities(authorities, "tls_client_ca")
        options.append(f"--grpc-root-cert={authorities.absolute()}")
    return options


class RenewalWatch:
    """Notices that a file of the certificate in use has another content, and says so once for each such content."""

    def __init__(self, settings: ServingSettings | None) -> None:
        named = () if settings is None else (settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        self._used = {path: digest_of_file(path) for path in named if path is not None}
        self._stamps = {path: stamp_of(path) for path in self._used}

    def look(self) -> None:
        """Looks at the files, at what costs nothing while they stay."""
        for path, used in self._used.items():
            if (stamp := stamp_of(path)) is None or stamp == self._stamps[path]:
                continue
            self._stamps[path] = stamp
            if digest_of_file(path) != used:
                log.warning(
                    "%s was renewed; Triton goes on with the one it read at its start: start the server again to "
                    "use the new one (live streams may end first)",
                    path,
                )
