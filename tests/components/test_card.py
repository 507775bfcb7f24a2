"""The model card says of one version what it is, how it was judged and by which bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from csm_components.artefacts import Artefact
from csm_components.card.spec import CARD
from csm_components.evaluate.outcome import EvaluateResult
from csm_components.job import StepJob
from csm_components.register.gate import Gate
from csm_components.register.spec import REGISTER, RegisterSettings
from csm_components.steps import perform
from csm_model.errors import ArtifactError
from csm_model.files import write_json

DIGEST = "b" * 64
FIGURES: dict[str, Any] = dict.fromkeys(EvaluateResult.__dataclass_fields__, 0.0) | {
    "bundle_digest": DIGEST, "digest": "e" * 64, "sentences": 96, "wer_generated": 0.16, "wer_interval": [0.12, 0.2],
    "speaker_accuracy": 0.97, "mos": None,
}  # fmt: skip


@pytest.fixture
def material(tmp_path: Path) -> Path:
    manifest = {
        "digest": DIGEST,
        "precision": "int8",
        "speakers": {"0": "heart", "1": "kumo"},
        "codec_digest": "c" * 64,
    }
    write_json(tmp_path / "bundle" / "manifest.json", manifest)
    write_json(tmp_path / "evaluate" / "result.json", FIGURES)
    return tmp_path


def inputs(home: Path, **names: str) -> dict[str, list[Artefact]]:
    return {name: [Artefact(url=str(home / folder))] for name, folder in names.items()}


def test_a_step_of_one_file_and_its_work_runs_after_register(material: Path) -> None:
    """The card is the smallest step: its spec, its work, a line of the table, a name in a pipeline's list."""
    perform(
        StepJob(
            spec=REGISTER,
            scratch=material / "scratch",
            settings={Gate: Gate(), RegisterSettings: RegisterSettings(model="csm-demo")},
            inputs=inputs(material, bundle="bundle", evaluation="evaluate"),
            work=material,
        )
    )
    given = inputs(material, bundle="bundle", evaluation="evaluate", version="register")
    job = StepJob(spec=CARD, scratch=material / "scratch", inputs=given, work=material)
    first, again = perform(job), perform(job)
    assert (first.result["reused"], again.result["reused"]) == (False, True)
    page = (material / "card" / "card.md").read_text(encoding="utf-8")
    for words in (
        "# csm-demo, version 1",
        "int8 weights. It missed the gate: wer 0.160 misses at most 0.15 by 0.010",
        "Voices: heart (0), kumo (1).",
        "96 held-out sentences",
        "0.160 (0.120 to 0.200)",
        "| wer | 0.16 | 0.15 |",
        "| mos | not measured |  |",
        f"| codec | `{'c' * 64}` |",
    ):
        assert words in page, page
    write_json(material / "evaluate" / "result.json", FIGURES | {"bundle_digest": "0" * 64})
    with pytest.raises(ArtifactError, match="evaluation is of bundle 000000000000, not of bbbbbbbbbbbb"):
        perform(job)
