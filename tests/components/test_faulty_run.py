"""A debug run whose steps have nothing but an S3 service between them, in which a fifth of all requests fails.

The tasks of a cluster's pipeline, shards and all, each with addresses alone, up to the quantised bundle. What they make
is what they make over a folder, and nothing is left behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from faulty_proxy import FAULTS, FaultyProxy, at_random, faulty_proxy

from csm_components import s3_retry
from csm_components.artefacts import Artefact
from csm_components.job import StepJob
from csm_components.made import Record
from csm_components.s3 import S3Storage
from csm_components.settings import Settings
from csm_components.steps import perform
from csm_components.storage import Storage, open_storage
from csm_components.tree_list import TREE
from csm_pipelines.checks import check_config
from csm_pipelines.config import RunConfig
from csm_pipelines.pipelines import PIPELINES, WiredStep
from csm_pipelines.presets import preset
from csm_pipelines.tiny import random_codec

SHARE = 0.2
"""Of all requests."""
LAST = "export"
"""What comes after it needs no more of the storage, and judges."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where a run is played."""

    address: str
    """Of its storage."""
    home: Path
    """Of what its steps have on their own disks."""
    config: RunConfig
    sources: Mapping[str, str]


def play(stage: Stage) -> dict[str, Record]:
    """Every task in its turn, as pods do them, one after another; their records by name."""
    made: dict[tuple[str, str], Sequence[Artefact]] = {}
    records: dict[str, Record] = {}
    shards: Sequence[str] = ()
    training = PIPELINES["training"]
    for task in training.wired(training.on_cluster):
        spec = task.spec
        inputs = {
            name: [Artefact(url=stage.sources[feed.source])] if feed.source else made[feed.task, feed.output]
            for name, feed in task.feeds.items()
            if not feed.source or feed.source in stage.sources
        }
        done = [one_task(stage, task, inputs, shard) for shard in (shards if spec.role == "shard" else ("",))]
        shards = done[-1].result["shards"] if spec.role == "plan" else ()
        for output in spec.outputs:
            made[spec.name, output.name] = [Artefact(**record.artefacts[output.name]) for record in done]
        records[spec.name] = done[-1]
        if spec.name == LAST:
            break
    return records


def one_task(stage: Stage, task: WiredStep, inputs: Mapping[str, Sequence[Artefact]], shard: str) -> Record:
    """A task in a pod of its own."""
    spec = task.spec
    return perform(
        StepJob(
            spec=spec,
            scratch=stage.home / f"{spec.name} {shard}",
            settings={
                owner: owner(**{knob.name: stage.config.value(knob) for knob in spec.knobs if knob.owner is owner})
                for owner in spec.settings
            },
            inputs=inputs,
            run="played",
            workers=1,
            shards=2,
            shard=shard,
        )
    )


def objects(storage: Storage) -> list[str]:
    """What a storage holds; of records in its ledger, whose keys name addresses too, only the step."""
    return sorted(key.rpartition("/")[0] if key.startswith("ledger/") else key for key in storage.list())


@pytest.fixture
def proxy(s3: Settings, monkeypatch: pytest.MonkeyPatch) -> FaultyProxy:
    """Before the service, and in what the environment says of it; waits are short."""
    assert s3.s3_endpoint is not None
    assert s3.s3_access_key is not None
    assert s3.s3_secret_key is not None
    monkeypatch.setattr(s3_retry, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(s3_retry, "LONGEST_WAIT_S", 0.01)
    with faulty_proxy(s3.s3_endpoint) as running:
        monkeypatch.setenv("CSM_S3_ENDPOINT", running.address)
        monkeypatch.setenv("CSM_S3_ACCESS_KEY", s3.s3_access_key)
        monkeypatch.setenv("CSM_S3_SECRET_KEY", s3.s3_secret_key.get_secret_value())
        yield running


def test_a_run_comes_out_as_over_a_folder(
    proxy: FaultyProxy, s3: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = check_config(preset("debug"), ["train.nodes=1x1"])
    codec = random_codec(tmp_path / "codec")
    records = {}
    for name, address in (("folder", str(tmp_path / "storage")), ("s3", "s3://faulty-run/a debug run")):
        monkeypatch.setenv("CSM_STORAGE", address)
        proxy.plan = at_random(0, SHARE)
        open_storage().put_tree(codec, "sources/codec")
        sources = {"corpus": str(config.data.corpus), "codec": f"{address}/sources/codec"}
        with_copies = config.changed(train={"recipe": {**config.train.recipe, "mirror": f"{address}/checkpoints"}})
        records[name] = play(Stage(address=address, home=tmp_path / name, config=with_copies, sources=sources))
    for step, record in records["folder"].items():
        found = records["s3"][step]
        digests = {key: value for key, value in record.result.items() if key.endswith("digest")}
        assert {key: found.result[key] for key in digests} == digests, step
        assert {key: row["digest"] for key, row in found.artefacts.items()} == {
            key: row["digest"] for key, row in record.artefacts.items()
        }, step
    failed = [fault for _, _, fault in proxy.requests if fault]
    assert set(failed) == set(FAULTS)
    assert 0.1 < len(failed) / len(proxy.requests) < 0.3
    directly = open_storage("s3://faulty-run/a debug run", s3)
    assert isinstance(directly, S3Storage)
    assert objects(directly) == objects(open_storage(str(tmp_path / "storage")))
    assert all(directly.has_tree(key.removesuffix(f"/{TREE}")) for key in directly.list() if key.endswith(TREE))
    uploads = directly.call("", lambda client: client._list_multipart_uploads(bucket_name="faulty-run"))
    assert not uploads.uploads
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name or path.name.endswith(".minio")]
