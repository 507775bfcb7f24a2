"""How Kubeflow Pipelines is reached; the environment goes before the profile. docs/settings.md is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from csm_model.errors import InputError

if TYPE_CHECKING:
    from csm_pipelines.profile import Kfp


class KfpSettings(BaseSettings):
    """How Kubeflow Pipelines is reached."""

    model_config = SettingsConfigDict(env_prefix="CSM_KFP_", frozen=True, allow_inf_nan=False, extra="ignore")

    host: str = Field(default="", pattern=r"^(https?://[^\s]+)?$")
    """Address of the API, `https://host`."""
    ui: str = Field(default="", pattern=r"^(https?://[^\s]+)?$")
    """Address of its pages, for links; without it that of the API."""
    namespace: str = ""
    """Namespace of runs, in an installation of many users."""
    experiment: str = ""
    """Experiment that runs belong to."""
    token: SecretStr | None = None
    """Bearer token; never printed."""
    token_file: str = ""
    """File with the token, read anew for each command."""
    ca: str = ""
    """File with the certificate authority of the API."""
    poll_s: float = Field(default=5.0, ge=0)
    """Seconds between two looks at a run that is followed."""

    def bearer(self) -> str | None:
        """The token; raises `InputError` where its file cannot be read."""
        if self.token is not None:
            return self.token.get_secret_value()
        if not self.token_file:
            return None
        try:
            return Path(self.token_file).expanduser().read_text(encoding="utf-8").strip()
        except OSError as error:
            raise InputError(f"token file {self.token_file}: cannot be read ({error.strerror})") from None


def load_settings(profile: Kfp | None = None) -> KfpSettings:
    """The environment's settings, and the profile's where the environment says nothing.

    Raises:
        InputError: a variable breaks its rule, or no host is named.
    """
    try:
        found = KfpSettings()
    except ValidationError as error:
        problems = ", ".join(
            f"CSM_KFP_{str(row['loc'][0]).upper()}={row['input']!r}: {row['msg']}" for row in error.errors()
        )
        raise InputError(f"{problems}; correct the environment variable or unset it") from None
    if profile is not None:
        own = {name: value for name, value in profile.model_dump().items() if value and not getattr(found, name)}
        found = found.model_copy(update=own)
    if not found.host:
        raise InputError("no Kubeflow Pipelines is named: set CSM_KFP_HOST, or kfp.host in the profile")
    return found
