"""The same trees in a real S3 service."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from csm_components.settings import Settings
from csm_components.storage import open_storage
from csm_components.tree_list import TREE
from csm_model.errors import DigestError, InputError, MissingDependencyError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "audio").mkdir(parents=True)
    (folder / "manifest.json").write_text('{"digest": "x"}')
    (folder / "audio" / "größe 1.flac").write_bytes(b"sound" * 1000)
    (folder / "empty").write_bytes(b"")
    return folder


def test_a_tree_comes_back_as_it_was(s3: Settings, tmp_path: Path, tree: Path) -> None:
    storage = open_storage("s3://artefacts/some/prefix", s3)
    put = storage.put_tree(tree, "ingest/1")
    assert open_storage("s3://artefacts/some/prefix", s3).get_tree("ingest/1", tmp_path / "back") == put
    for name in put["files"]:
        assert (tmp_path / "back" / name).read_bytes() == (tree / name).read_bytes()
    assert storage.list("ingest/") == sorted(f"ingest/1/{name}" for name in [TREE, *put["files"]])
    assert open_storage("s3://artefacts", s3).exists("some/prefix/ingest/1/manifest.json")
    assert storage.digest("ingest/1/manifest.json") == put["files"]["manifest.json"]["sha256"]


def test_storing_again_stores_nothing(s3: Settings, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage("s3://artefacts/again", s3)
    put = storage.put_tree(tree, "t")
    with monkeypatch.context() as patch:
        patch.setattr(type(storage), "put_file", None)  # would fail if it were called
        assert storage.put_tree(tree, "t") == put
    (tree / "empty").unlink()
    storage.put_tree(tree, "t")
    assert not storage.exists("t/empty")


def test_a_changed_object_is_refused(s3: Settings, tmp_path: Path, tree: Path) -> None:
    storage = open_storage("s3://artefacts/damaged", s3)
    storage.put_tree(tree, "t")
    (tmp_path / "other").write_text("something else")
    storage.put_file(tmp_path / "other", "t/manifest.json")
    with pytest.raises(DigestError, match=r"t/manifest\.json"):
        storage.get_tree("t", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_tree_without_its_list_is_not_there(s3: Settings, tmp_path: Path, tree: Path) -> None:
    storage = open_storage("s3://artefacts/half", s3)
    storage.put_tree(tree, "t")
    storage.delete(f"t/{TREE}")
    with pytest.raises(InputError, match="no such tree"):
        storage.get_tree("t", tmp_path / "back")


def test_what_goes_wrong_is_said(s3: Settings, tmp_path: Path) -> None:
    assert not open_storage("s3://never-made", s3).exists("x")
    assert open_storage("s3://never-made", s3).list() == []
    with pytest.raises(InputError, match="s3://artefacts/nothing: no such object"):
        open_storage("s3://artefacts", s3).get_file("nothing", tmp_path / "x")
    wrong = Settings(s3_endpoint=s3.s3_endpoint, s3_access_key="tester", s3_secret_key="not it")
    with pytest.raises(InputError, match="CSM_S3_SECRET_KEY"):
        open_storage("s3://artefacts", wrong).put_file(Path(__file__), "x")
    nobody = Settings(s3_endpoint="http://127.0.0.1:9", s3_access_key="tester", s3_secret_key="x", s3_patience_s=0)
    with pytest.raises(MissingDependencyError, match=r"does not answer as it should \(.*refused"):
        open_storage("s3://artefacts", nobody).put_file(Path(__file__), "x")


@pytest.fixture
def agent(s3: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    """Lends keys to who shows the pod's token, as the agent of EKS's Pod Identity does; yields the tokens shown."""
    assert s3.s3_secret_key is not None
    lent = {
        "AccessKeyId": s3.s3_access_key,
        "SecretAccessKey": s3.s3_secret_key.get_secret_value(),
        "Token": "",
        "Expiration": f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
    }
    shown: list[str | None] = []

    class Agent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(lent).encode())

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    (tmp_path / "token").write_text("of this pod")
    with ThreadingHTTPServer(("127.0.0.1", 0), Agent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{server.server_port}/v1/credentials"
        )
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        yield shown
        server.shutdown()


def test_a_pod_may_store_as_itself(s3: Settings, agent: list[str | None], tree: Path) -> None:
    as_itself = Settings(s3_endpoint=s3.s3_endpoint, s3_credentials="identity")
    put = open_storage("s3://artefacts/itself", as_itself).put_tree(tree, "t")
    assert open_storage("s3://artefacts/itself", s3).read_tree("t") == put
    assert agent == ["of this pod"], "keys are lent once, until they expire"


@pytest.mark.parametrize("where", ["environment", "profile"])
def test_keys_are_found_where_the_tools_of_aws_look(
    where: str, s3: Settings, agent: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3.s3_secret_key is not None
    keys = {"aws_access_key_id": s3.s3_access_key, "aws_secret_access_key": s3.s3_secret_key.get_secret_value()}
    if where == "environment":
        for name, value in keys.items():
            monkeypatch.setenv(name.upper(), value or "")
    else:
        (tmp_path / "credentials").write_text("\n".join(["[team]", *(f"{name} = {keys[name]}" for name in keys)]))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("AWS_PROFILE", "team")
    as_itself = Settings(s3_endpoint=s3.s3_endpoint, s3_credentials="identity")
    assert open_storage("s3://artefacts", as_itself).list("nothing-here") == []
    assert agent == [], "nobody else was asked"


def test_without_an_identity_the_cure_is_named(s3: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "no-token"))
    storage = open_storage("s3://artefacts", Settings(s3_endpoint=s3.s3_endpoint, s3_credentials="identity"))
    with pytest.raises(MissingDependencyError, match=r"no-token.*CSM_S3_CREDENTIALS=keys"):
        storage.exists("x")
    missing = Settings(s3_endpoint=s3.s3_endpoint, s3_credentials="identity", s3_ca=str(tmp_path / "ca.pem"))
    with pytest.raises(InputError, match=r"CSM_S3_CA=.*no such file"):
        open_storage("s3://artefacts", missing)
