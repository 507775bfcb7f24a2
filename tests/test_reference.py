"""The page of settings is made from the settings, and each of them says what it is."""

from __future__ import annotations

import pytest
import reference
from pydantic_settings import BaseSettings, SettingsConfigDict


def test_the_page_is_of_these_settings() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run python tools/reference.py"


def test_the_page_of_steps_is_of_this_table() -> None:
    assert reference.STEPS_PAGE.read_text(encoding="utf-8") == reference.steps_page(), "run python tools/reference.py"


class Silent(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SILENT_")

    loud: int = 1
    """How loud."""
    quiet: int = 0


def test_a_setting_that_says_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "TABLES", (("Silent", "None.", Silent),))
    with pytest.raises(ValueError, match=r"Silent\.quiet: say under it what it is"):
        reference.page()


def test_secrets_and_defaults_as_the_environment_gives_them() -> None:
    page = reference.page()
    assert "| `CSM_S3_SECRET_KEY` | none |" in page
    assert "| `CSM_TRAIN_TARGET` | `{}` |" in page
    assert "| `MLFLOW_TRACKING_URI` | none |" in page
