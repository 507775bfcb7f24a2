"""Settings: on their page, handed on to the model, and never with a secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from csm_model.errors import ArtifactError, InputError
from csm_serving.server.repository import read_version_settings, write_version
from csm_serving.settings import SECRETS, ServingSettings, load_settings

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def test_the_page_lists_every_setting_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \| .+ \|$", PAGE.read_text(encoding="utf-8"), re.M))
    for name, field in ServingSettings.model_fields.items():
        assert name in rows, name
        value = field.default
        if value is not None:
            assert rows[name] == f"`{str(value).lower() if isinstance(value, bool) else value}`", name


def test_a_version_has_what_it_was_given_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = load_settings(
        bundle=Path("here"), slots=3, lead_s=0.0, voices=Path("/voices"), turn_key="ab" * 16, watermark_key="cd" * 16
    )
    stored = given.of_model()
    assert not SECRETS & stored.keys()
    assert "abab" not in repr(given)
    folder = write_version(tmp_path, "7", stored)
    assert "abab" not in (folder / "serving.json").read_text()
    monkeypatch.setenv("CSM_SERVING_SLOTS", "5")
    monkeypatch.setenv("CSM_SERVING_TURN_KEY", "ef" * 16)
    again = read_version_settings(folder)
    assert (again.bundle, again.slots, again.lead_s, again.voices) == (tmp_path / "here", 3, 0.0, Path("/voices"))
    assert again.turn_key == "ef" * 16


def test_without_a_file_the_environment_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSM_SERVING_SLOTS", "5")
    assert read_version_settings(write_version(tmp_path, "1")).slots == 5


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("{", ArtifactError, "not valid JSON"),
        ("[1]", ArtifactError, "no JSON object"),
        ('{"slots": 0}', InputError, "slots = 0"),
        ('{"weights": "int3"}', InputError, "weights = 'int3'"),
    ],
)
def test_a_damaged_version_is_one_line(tmp_path: Path, content: str, kind: type[Exception], message: str) -> None:
    folder = write_version(tmp_path, "1", {})
    (folder / "serving.json").write_text(content)
    with pytest.raises(kind, match=message) as caught:
        read_version_settings(folder)
    assert "\n" not in str(caught.value)
