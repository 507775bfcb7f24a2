"""A real S3 service behind a proxy in which requests fail: what is stored and fetched is whole, and nothing is left."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_proxy import FAULTS, Fault, FaultyProxy, at_random, faulty_proxy, in_turn

from csm_components import s3_retry
from csm_components.s3 import S3Storage
from csm_components.s3_retry import FIRST_WAIT_S, LONGEST_WAIT_S, STRANGER_S, Attempts, TornError
from csm_components.settings import Settings
from csm_components.storage import open_storage
from csm_components.tree_list import TREE
from csm_model.errors import ArtifactError, InputError, MissingDependencyError

LARGE = 6 * 2**20
"""Bytes of a file that travels in parts."""


@pytest.fixture(scope="module")
def proxy(s3: Settings) -> Iterator[FaultyProxy]:
    assert s3.s3_endpoint is not None
    with faulty_proxy(s3.s3_endpoint) as running:
        yield running


@pytest.fixture
def settings(s3: Settings, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(s3_retry, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(s3_retry, "LONGEST_WAIT_S", 0.002)
    proxy.requests.clear()
    proxy.plan = lambda method, path: None
    return s3.model_copy(update={"s3_endpoint": proxy.address})


def storage_of(settings: Settings, prefix: str) -> S3Storage:
    found = open_storage(f"s3://faults/{prefix}", settings)
    assert isinstance(found, S3Storage)
    return found


def uploads(settings: Settings) -> int:
    """Uploads in parts that were begun and not ended."""
    listed = storage_of(settings, "x").call("", lambda client: client._list_multipart_uploads(bucket_name="faults"))
    return len(listed.uploads)


def tree_at(folder: Path, seed: int) -> Path:
    rng = random.Random(seed)
    for number in range(12):
        path = folder / rng.choice(["a", "b/c", "ä #?;+% d"]) / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice([0, 1, 5, 70_000])))
    (folder / "large").write_bytes(rng.randbytes(LARGE))
    return folder


@pytest.mark.parametrize("seed", range(4))
def test_a_fifth_of_all_requests_may_fail(
    seed: int, settings: Settings, s3: Settings, proxy: FaultyProxy, tmp_path: Path
) -> None:
    storage, tree = storage_of(settings, f"random-{seed}"), tree_at(tmp_path / "tree", seed)
    storage.put_file(tree / "large", "left over/large")
    proxy.plan = at_random(seed, 0.2)
    put = storage.put_tree(tree, "left over")
    assert storage.get_tree("left over", tmp_path / "back") == put
    assert storage.has_tree("left over")
    storage.delete(f"left over/{TREE}")
    assert not storage.has_tree("left over")
    failed = [fault for _, _, fault in proxy.requests if fault]
    assert len(failed) > 0.05 * len(proxy.requests)
    directly = storage_of(s3, f"random-{seed}")
    assert directly.list() == sorted(f"left over/{name}" for name in put["files"])
    for name, row in put["files"].items():
        assert directly.digest(f"left over/{name}") == row["sha256"]
    assert uploads(s3) == 0
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name or path.name.endswith(".minio")]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("method", ["PUT", "POST", "GET", "HEAD", "DELETE"])
def test_each_verb_outlives_each_fault(
    method: str, fault: Fault, settings: Settings, s3: Settings, proxy: FaultyProxy, tmp_path: Path
) -> None:
    storage, large = storage_of(settings, f"{method} {fault}"), tmp_path / "large"
    large.write_bytes(random.Random(0).randbytes(LARGE))
    proxy.plan = in_turn(fault, fault, method=method)
    storage.put_file(large, "key")
    assert storage.digest("key") is not None
    storage.get_file("key", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    storage.delete("key")
    assert storage.list() == []
    harmless = (method, fault) == ("DELETE", "torn answer")  # it has no body
    assert sum(kind is not None for _, _, kind in proxy.requests) == (1 if harmless else 2)
    assert uploads(s3) == 0
    assert sorted(tmp_path.iterdir()) == [tmp_path / "back", large]


def test_a_service_that_stays_in_trouble_is_given_up_in_one_line(
    settings: Settings, s3: Settings, proxy: FaultyProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(LARGE))
    storage = storage_of(settings.model_copy(update={"s3_patience_s": 0.5}), "trouble")
    storage.put_file(large, "before")
    proxy.plan = lambda method, path: "busy" if "partNumber" in path else None
    with caplog.at_level(logging.WARNING), pytest.raises(ArtifactError, match=r"faults/trouble/key: .* SlowDown"):
        storage.put_file(large, "key")
    assert any("trying again for up to" in line for line in caplog.messages)
    assert uploads(s3) == 0
    proxy.plan = lambda method, path: "torn answer"
    with pytest.raises(MissingDependencyError, match="does not answer as it should"):
        storage.get_file("before", tmp_path / "back")
    assert sorted(tmp_path.iterdir()) == [large]


def test_what_another_attempt_does_not_cure_is_said_at_once(settings: Settings, proxy: FaultyProxy) -> None:
    wrong = settings.model_copy(update={"s3_access_key": "nobody"})
    with pytest.raises(InputError, match="CSM_S3_ACCESS_KEY"):
        storage_of(wrong, "x").list()
    assert len(proxy.requests) == 1


class Clock:
    """Time that passes in waits alone."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.mark.parametrize("patience", [0.0, 1.0, 30.0, 120.0])
@pytest.mark.parametrize("answered", [False, True])
def test_waits_grow_and_end(patience: float, answered: bool) -> None:
    clock = Clock()
    attempts = Attempts(patience, waits=clock.wait, clock=lambda: clock.now)
    if answered:
        assert attempts.make(lambda: 7, "x") == 7

    def call() -> None:
        raise TornError("cut")

    with pytest.raises(TornError):
        attempts.make(call, "x")
    assert clock.now == pytest.approx(patience if answered else min(patience, STRANGER_S))
    bounds = [min(FIRST_WAIT_S * 2**number, LONGEST_WAIT_S) for number in range(len(clock.waits))]
    assert all(wait <= bound for wait, bound in zip(clock.waits, bounds, strict=True))
    assert all(wait >= bound / 2 for wait, bound in zip(clock.waits[:-1], bounds, strict=False))


def test_lent_keys_are_renewed_once_a_call() -> None:
    from minio.error import S3Error
    from urllib3 import HTTPResponse

    def refused() -> None:
        raise S3Error(HTTPResponse(b"x", status=400), "ExpiredToken", "expired", "/", "1", "2")

    renewed: list[str] = []
    attempts = Attempts(60, renew=lambda: renewed.append("keys"), waits=lambda seconds: None)
    with pytest.raises(S3Error, match="ExpiredToken"):
        attempts.make(refused, "x")
    assert renewed == ["keys"]

    def once() -> str:
        if len(renewed) < 2:
            refused()
        return "stored"

    assert attempts.make(once, "x") == "stored"


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "RequestTimeTooSkewed"])
def test_keys_and_clocks_that_are_wrong_have_a_cure(
    code: str, settings: Settings, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minio.error import S3Error
    from urllib3 import HTTPResponse

    storage = storage_of(settings, "x")

    def refused(client: object) -> None:
        raise S3Error(HTTPResponse(b"x", status=403), code, "no", "/", "1", "2")

    cure = "clock is wrong" if code == "RequestTimeTooSkewed" else "CSM_S3_SESSION_TOKEN"
    with pytest.raises(InputError, match=cure):
        storage.call("key", refused)


ODD = "#?;&=+% ä%20'\"[]@!$,:"


@pytest.mark.parametrize("seed", range(30))
def test_every_character_of_an_address_is_the_keys_own(seed: int, settings: Settings) -> None:
    rng = random.Random(seed)
    prefix = "/".join("".join(rng.choices("ab7" + ODD, k=rng.randint(1, 6))).strip() or "p" for _ in range(3))
    storage = storage_of(settings, prefix)
    assert (storage.bucket, storage.prefix) == ("faults", prefix)
    if seed < 6:
        storage.put_json({"of": seed}, "key")
        assert open_storage("s3://faults", settings).get_json(f"{prefix}/key") == {"of": seed}


@pytest.mark.parametrize("bucket", ["", "a", "a b", "a#b", "-ab", "x" * 64, "a?b", "user:key@host"])
def test_a_bucket_that_cannot_be_is_refused(bucket: str, settings: Settings) -> None:
    with pytest.raises(InputError, match="is no name"):
        open_storage(f"s3://{bucket}/prefix", settings)
