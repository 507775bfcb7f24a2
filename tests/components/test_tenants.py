"""What is made for tenants before their first run, in a real S3 service; with a real MLflow in tests/charts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from csm_cli.cli import main
from csm_components.buckets import expire, make_bucket
from csm_components.settings import Settings
from csm_components.storage import open_storage
from csm_components.tenants import Accounts, Login, Tenant, prepare, read_tenants
from csm_model.errors import InputError, MissingDependencyError

VOICES = {"name": "voices", "storage": "s3://tenants-voices/all", "checkpointDays": 14, "shardDays": 60}


def rules(s3: Settings, bucket: str) -> dict[str, int]:
    client = open_storage(f"s3://{bucket}", s3)._client  # type: ignore[attr-defined]
    found = client.get_bucket_lifecycle(bucket_name=bucket)
    return {rule.rule_filter.prefix: rule.expiration.days for rule in (found.rules if found else [])}


def test_a_bucket_is_made_once(s3: Settings) -> None:
    assert make_bucket("s3://made-once/some/prefix", s3) is True
    assert make_bucket("s3://made-once", s3) is False


def test_each_prefix_has_its_own_age_and_zero_is_for_ever(s3: Settings) -> None:
    make_bucket("s3://ages", s3)
    expire("s3://ages/a/checkpoints", 14, s3)
    expire("s3://ages/b/checkpoints", 30, s3)
    expire("s3://ages/a/checkpoints", 7, s3)
    assert rules(s3, "ages") == {"a/checkpoints/": 7, "b/checkpoints/": 30}
    expire("s3://ages/a/checkpoints", 0, s3)
    assert rules(s3, "ages") == {"b/checkpoints/": 30}
    expire("s3://ages/b/checkpoints", 0, s3)
    expire("s3://ages/b/checkpoints", 0, s3)
    assert rules(s3, "ages") == {}


@pytest.mark.parametrize(
    ("url", "days", "words"),
    [
        ("s3://ages", 7, "names a whole bucket"),
        ("s3://ages/a", -1, "-1 days: must be 0"),
        ("/data", 7, "must be s3://bucket"),
    ],
)
def test_ages_of_other_things_are_refused(s3: Settings, url: str, days: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        expire(url, days, s3)


def test_what_is_there_is_left_alone(s3: Settings) -> None:
    tenants = [Tenant.model_validate(VOICES), Tenant(name="talks", storage="s3://tenants-voices/talks")]
    assert list(prepare(tenants, settings=s3)) == ["voices: the bucket of s3://tenants-voices/all is made"]
    assert list(prepare(tenants, settings=s3)) == []
    assert rules(s3, "tenants-voices") == {"all/checkpoints/": 14, "all/shards/": 60}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Invalid JSON"),
        ("{}", "valid array"),
        (json.dumps([{**VOICES, "storage": "s3://bucket"}]), "0.storage: String should match pattern"),
        (json.dumps([{**VOICES, "quota": 1}]), "0.quota: Extra inputs are not permitted"),
        (json.dumps([{**VOICES, "checkpointDays": -1}]), "0.checkpointDays: Input should be greater"),
    ],
)
def test_a_wrong_list_of_tenants_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "tenants.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words) as refused:
        read_tenants(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_secret_without_a_key_is_named(s3: Settings, tmp_path: Path) -> None:
    (tmp_path / "username").write_text("admin")
    with pytest.raises(InputError, match="the secret has no password"):
        Login.read(tmp_path, "username", "password")
    (tmp_path / "password").write_text("secret-of-admin\n")
    assert Login.read(tmp_path, "username", "password") == Login("admin", "secret-of-admin")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI is not set"):
        list(prepare([Tenant.model_validate(VOICES)], admin=tmp_path, settings=s3))


def test_an_mlflow_that_does_not_answer_is_named() -> None:
    accounts = Accounts("http://127.0.0.1:9", Login("admin", "x"))
    with pytest.raises(MissingDependencyError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer"):
        accounts.ensure_user(Login("voices", "y"))


def test_the_commands_say_what_they_did(
    s3: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert s3.s3_endpoint
    assert s3.s3_access_key
    assert s3.s3_secret_key
    monkeypatch.setenv("CSM_S3_ENDPOINT", s3.s3_endpoint)
    monkeypatch.setenv("CSM_S3_ACCESS_KEY", s3.s3_access_key)
    monkeypatch.setenv("CSM_S3_SECRET_KEY", s3.s3_secret_key.get_secret_value())
    path = tmp_path / "tenants.json"
    path.write_text(json.dumps([{"name": "said", "storage": "s3://said-bucket/all"}]), encoding="utf-8")
    for words, said in (
        (["prepare-tenants", str(path)], "said: the bucket of s3://said-bucket/all is made\n"),
        (
            ["make-bucket", "s3://said-bucket", "s3://another-said"],
            "s3://said-bucket: is there\ns3://another-said: made\n",
        ),
    ):
        monkeypatch.setattr("sys.argv", ["csm", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        assert capsys.readouterr().out == said
