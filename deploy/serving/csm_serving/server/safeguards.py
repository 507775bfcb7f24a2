"""What a server's settings leave unguarded, said when it starts; `docs/safeguards.md` is its page."""

from __future__ import annotations

import ipaddress

from csm_serving.settings import ServingSettings


def warnings_of(settings: ServingSettings) -> list[str]:
    """A line for each safeguard that a setting has turned off or weakened; the setting is named in it."""
    warnings = []
    if settings.watermark in ("off", "none"):
        warnings.append("no watermark: streams cannot be told from recordings (CSM_SERVING_WATERMARK=off)")
    if settings.audit == "off":
        warnings.append("no audit: nothing says what was spoken as whom (CSM_SERVING_AUDIT=off)")
    elif not settings.audit_required:
        warnings.append("streams begin though the audit cannot be written (CSM_SERVING_AUDIT_REQUIRED=false)")
    if settings.client_voices == "allow":
        warnings.append("clients may clone a voice without a record of consent (CSM_SERVING_CLIENT_VOICES=allow)")
    if settings.turn_key is None:
        warnings.append(
            "tokens of this process are unknown to others and after a restart: context and resumed streams that were "
            "spoken elsewhere are refused (CSM_SERVING_TURN_KEY is not set)"
        )
    if settings.token_file is None and not is_loopback(settings.host):
        warnings.append(
            f"anybody who reaches port {settings.grpc_port} may speak, as any voice and as much as fits: nobody is "
            "asked who calls (CSM_SERVING_TOKEN_FILE is not set)"
        )
    if settings.token_file is not None and settings.tls_cert is None and not is_loopback(settings.host):
        warnings.append(
            "tokens come over the network unencrypted, unless a proxy before this server encrypts "
            "(CSM_SERVING_TLS_CERT is not set)"
        )
    return warnings


def who_may_call(settings: ServingSettings) -> str:
    """Who may call, in a line that cannot be missed where that is everybody."""
    sealed = "encrypted" if settings.tls_cert is not None else "NOT encrypted"
    if settings.token_file is not None:
        return f"those of {settings.token_file}, {sealed}"
    if is_loopback(settings.host):
        return f"anybody on this machine, {sealed} (--token-file)"
    return f"ANYBODY who reaches {settings.host}, {sealed} (--token-file, --tls-cert)"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
