"""How a client makes sure whom it speaks to, and shows who it is: TLS, a certificate, a token."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypedDict

import grpc

from csm_model.errors import InputError
from csm_serving.wire.protocol import AUTHORIZATION

_TOKEN: Final = re.compile(r"[!-~]{1,512}")
"""What HTTP/2 carries in a header, without spaces."""


class AccessArguments(TypedDict):
    """See `Access`."""

    tls: bool
    ca: Path | str | None
    client_cert: tuple[Path | str, Path | str] | None
    token: str | None


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a client brings along; every connection reads the files anew, so that they may be renewed.

    Args:
        tls: whether connections are encrypted; so they are, too, where one of the following is given.
        ca: PEM file of the authorities whose certificates are believed; None: those that gRPC brings along.
        client_cert: PEM files of this client's own certificate and of its key, for a server that asks for them.
        token: what `csm token add` printed; it names the caller.

    Raises:
        InputError: a file that is not there or holds something else, a token that cannot be one.
    """

    tls: bool = False
    ca: Path | str | None = None
    client_cert: tuple[Path | str, Path | str] | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise InputError("the token is none: give what csm token add printed, without spaces or line ends")
        self._checked()

    @property
    def encrypted(self) -> bool:
        """Whether connections are."""
        return self.tls or self.ca is not None or self.client_cert is not None

    @property
    def arguments(self) -> AccessArguments:
        """The same as arguments of a client."""
        return AccessArguments(tls=self.tls, ca=self.ca, client_cert=self.client_cert, token=self.token)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes along with every call."""
        return () if self.token is None else ((AUTHORIZATION, f"Bearer {self.token}"),)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """What a new connection needs; None for a plain one."""
        if not self.encrypted:
            return None
        ca, certificate, key = self._checked()
        return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=certificate)

    def _checked(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The contents of the files: the authorities', the certificate's, the key's."""
        ca = None if self.ca is None else read_authorities(Path(self.ca), "ca")
        if self.client_cert is None:
            return ca, None, None
        certificate, key = (Path(path) for path in self.client_cert)
        return ca, *read_pair(certificate, key, "client_cert")


def read_authorities(path: Path, name: str) -> bytes:
    """The PEM certificates in `path`, which was given as `name`; raises `InputError` where they are none."""
    content = _read(path, name)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)  # without the system's own
    except ssl.SSLError:
        raise InputError(f"{name} {path}: holds no PEM certificate; give the certificates to believe") from None
    return content


def read_pair(certificate: Path, key: Path, name: str) -> tuple[bytes, bytes]:
    """A certificate with its chain, and its key, both PEM; raises `InputError` where they are none or not of a pair."""
    contents = _read(certificate, name), _read(key, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        mismatch = "MISMATCH" in str(error.reason)
        reason = "the key is not that of the certificate" if mismatch else "are no PEM certificate and key"
        raise InputError(f"{name} {certificate} and {key}: {reason}; give a certificate and its own key") from None
    except _LockedError:
        raise InputError(f"{name} {key}: is locked by a password; give a key without one, mode 0600") from None
    return contents


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{name} {path}: cannot be read ({error.strerror}); give a PEM file") from None


class _LockedError(Exception):
    """A key asks for a password."""


def _no_password(*_: Any) -> str:
    raise _LockedError
