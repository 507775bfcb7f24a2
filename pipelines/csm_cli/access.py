"""Options by which a client command makes sure of its server and says who it is, and what is read from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from csm_model.errors import InputError

if TYPE_CHECKING:
    from csm_serving.client.access import Access
    from csm_serving.settings import ServingSettings

PANEL = "Access"

Tls = Annotated[
    bool,
    typer.Option("--tls", help="Encrypt the connection; so do --ca and --client-cert.", rich_help_panel=PANEL),
]
Ca = Annotated[
    Path | None,
    typer.Option(
        help="PEM file of the authorities to believe.", show_default="CSM_SERVING_CA, or gRPC's", rich_help_panel=PANEL
    ),
]
ClientCert = Annotated[
    Path | None,
    typer.Option(
        help="PEM file of your certificate, where the server asks for one.",
        show_default="CSM_SERVING_CLIENT_CERT, or none",
        rich_help_panel=PANEL,
    ),
]
ClientKey = Annotated[
    Path | None,
    typer.Option(
        help="PEM file of that certificate's key.",
        show_default="CSM_SERVING_CLIENT_KEY, or none",
        rich_help_panel=PANEL,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        help="Your token. Others on this machine can read it here, but not in the variable.",
        show_default="CSM_SERVING_TOKEN, or none",
        rich_help_panel=PANEL,
    ),
]


def access_of(
    settings: ServingSettings,
    *,
    tls: bool,
    ca: Path | None,
    client_cert: Path | None,
    client_key: Path | None,
    token: str | None,
) -> Access:
    """What the options say, and where they say nothing the environment; raises `InputError`."""
    from csm_serving.client.access import Access

    certificate = client_cert or settings.client_cert
    key = client_key or settings.client_key
    if (certificate is None) != (key is None):
        raise InputError("--client-cert and --client-key go together: give both, or none")
    return Access(
        tls=tls or settings.tls,
        ca=ca or settings.ca,
        client_cert=None if certificate is None or key is None else (certificate, key),
        token=token or settings.token,
    )
