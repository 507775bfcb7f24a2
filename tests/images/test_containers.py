"""The images, built and run as a restricted pod runs them: no root, nothing writable but what is mounted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import containers
import pytest
from bills import complaints
from containers import Running, run_as_pod, writable
from image_requirements import canonical
from kfp_container import step_here
from ports import free_port, free_ports

from csm_components.steps import note_path
from csm_model.files import read_json

pytestmark = pytest.mark.timeout(1800)  # the first test of an image waits for its build

BUILT = ("tracking", "data", "serve")
"""Images that are looked into. That for training holds less than `data`; only TEST_IMAGES has it built."""

LOOK = """
import importlib.metadata, json, os, shutil
from pathlib import Path
weights = {".safetensors", ".pt", ".pth", ".bin", ".onnx", ".ckpt", ".gguf"}
owned = {str(f.locate()) for d in importlib.metadata.distributions() for f in d.files or ()}
tops = ("/opt", "/models", "/run/csm", "/usr/share/csm", "/srv", "/home")
found = [str(p) for top in tops for p in Path(top).rglob("*") if p.suffix in weights]
places = ("/x", "/opt/csm/x", "/usr/share/csm/x", "/etc/x", "/var/cache/uv/x")
def refused(path):
    try: Path(path).write_text("x")
    except OSError as error: return error.errno
print(json.dumps({
    "user": [os.getuid(), os.getgid()],
    "installed": sorted(d.metadata["Name"] for d in importlib.metadata.distributions()),
    "compilers": [name for name in ("cc", "gcc", "g++", "clang", "ld", "make", "cmake", "uv") if shutil.which(name)],
    "loose": [path for path in found if path not in owned],
    "safetensors": [path for path in found if path.endswith(".safetensors")],
    "written": [path for path in places if not refused(path)],
    "tmp": refused("/tmp/x"),
    "caches": [str(p) for top in ("/var/cache/uv", "/tmp/.cache") for p in Path(top).rglob("*")],
}))
"""


@pytest.fixture(params=BUILT)
def image(request: pytest.FixtureRequest, image_of: Callable[[str], str]) -> tuple[str, str]:
    return request.param, image_of(request.param)


def test_an_image_holds_the_lock_s_cut_and_nothing_else(image: tuple[str, str]) -> None:
    name = image[1]
    seen = json.loads(run_as_pod(name, "python3", "-c", LOOK))
    cut = run_as_pod(name, "cat", "/usr/share/csm/requirements.txt")
    locked = {canonical(found) for found in re.findall(r"^([A-Za-z0-9._-]+)==", cut, re.MULTILINE)}
    assert {canonical(found) for found in seen["installed"]} == locked | {"csm-foundry"}
    assert seen["user"] == [10001, 10001]
    assert seen["compilers"] == []
    assert seen["written"] == []
    assert seen["tmp"] is None
    assert seen["caches"] == []


def test_no_image_carries_weights_of_a_model(image: tuple[str, str]) -> None:
    """Packages of judges bring their own weights; nothing else does, and no bundle is in any image."""
    seen = json.loads(run_as_pod(image[1], "python3", "-c", LOOK))
    assert seen["loose"] == []
    assert seen["safetensors"] == []


def test_an_image_says_what_it_is(image: tuple[str, str]) -> None:
    target, name = image
    config = json.loads(containers.output("podman", "image", "inspect", name))[0]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"csm-foundry {target}"
    assert labels["org.opencontainers.image.version"] == containers.version()
    assert re.fullmatch(r"[0-9a-f]{40}(-changed)?", labels["org.opencontainers.image.revision"])
    created = labels["org.opencontainers.image.created"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", created)
    assert config["Created"].startswith("1970-01-01"), "layers are the same whenever they are made"
    assert labels["org.opencontainers.image.base.digest"].startswith("sha256:")
    assert config["Config"]["User"] == "10001:10001"
    assert "PIP_" not in json.dumps(config["Config"])
    assert "UV_INDEX" not in json.dumps(config["History"])


def test_an_image_s_bill_is_valid_and_lies_beside_it(image: tuple[str, str], out: Path) -> None:
    target, name = image
    beside = (out / f"{target}.cdx.json").read_text(encoding="utf-8")
    assert beside == run_as_pod(name, "cat", "/usr/share/csm/sbom.cdx.json")
    bill = json.loads(beside)
    assert complaints(bill) == []
    purls = {one.get("purl", "").partition("@")[0] for one in bill["components"]}
    assert {"pkg:pypi/csm-foundry", "pkg:pypi/numpy", "pkg:deb/debian/libc6", "pkg:deb/debian/libpython3.11"} <= purls


def test_the_values_that_were_written_name_the_image(image_of: Callable[[str], str], out: Path) -> None:
    repository, _, digest = image_of("tracking").partition("@")
    assert (out / "csm-platform.yaml").read_text() == f"image:\n  repository: {repository}\n  digest: {digest}\n"


def test_the_tracking_server_answers(image_of: Callable[[str], str], run_container: Callable[..., Running]) -> None:
    port = free_port()
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", "sqlite:////tmp/mlflow.db", "--artifacts-destination", "/tmp/artifacts"]
    server = run_container(image_of("tracking"), *command, *store, env={"MLFLOW_DISABLE_TELEMETRY": "true"})
    assert server.until_answers(f"http://127.0.0.1:{port}/version").startswith("3.")
    assert run_as_pod(image_of("tracking"), "python3", "-c", "import boto3, psycopg2").strip() == ""
    assert containers.version() in run_as_pod(image_of("tracking"), "csm", "--version")


def test_ingest_and_tokenise_give_the_same_digests_as_in_this_process(
    image_of: Callable[[str], str], tmp_path: Path
) -> None:
    from csm_components.ingest.step import ingest
    from csm_components.tokenise.knobs import CheckSettings
    from csm_components.tokenise.step import tokenise

    image = image_of("data")
    demo = containers.ROOT / "deploy" / "demo"
    here = ingest(corpus=demo / "corpus", out=tmp_path / "here", default_license=None, max_conversations=12, workers=1)
    tokens_here = tokenise(
        conversations=tmp_path / "here",
        codec=demo / "codec",
        tokenizer_from=None,
        out=tmp_path / "tokens-here",
        check=CheckSettings(min_energy_correlation=-1),
        workers=1,
    )
    there = writable(tmp_path / "there")
    folders = {demo: "/demo:ro", there: "/step"}
    digests = {}
    for name, inputs, settings in (
        ("ingest", {"corpus": "/demo/corpus"}, {"data.conversations": 12}),
        (
            "tokenise",
            {"conversations": "/step/ingest", "codec": "/demo/codec"},
            {"data.min_energy_correlation": -1.0, "data.heard_turns": 0},
        ),
    ):
        run_as_pod(image, *step_here(name, "/step", inputs, settings), folders=folders)
        digests[name] = read_json(note_path(there, name))["result"]["digest"]
    assert digests == {"ingest": here.digest, "tokenise": tokens_here.digest}


def test_the_step_train_trains(image_of: Callable[[str], str], tmp_path: Path) -> None:
    image = image_of("train")
    from csm_components.ingest.step import ingest
    from csm_components.tokenise.knobs import CheckSettings
    from csm_components.tokenise.step import tokenise
    from csm_pipelines.presets import debug
    from csm_pipelines.tiny import random_codec

    corpus = containers.ROOT / "deploy" / "demo" / "corpus"
    given = tmp_path / "given"
    ingest(corpus=corpus, out=given / "conversations", default_license=None, max_conversations=8, workers=1)
    tokenise(
        conversations=given / "conversations",
        codec=random_codec(given / "codec"),
        tokenizer_from=None,
        out=given / "tokens",
        check=CheckSettings(min_energy_correlation=-1),
        workers=1,
    )
    for path in [given, *given.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    made = writable(tmp_path / "made")
    recipe = dict(debug().train.recipe) | {"steps": 3}
    command = step_here(
        "train", "/made/run", {"tokens": "/given/tokens"}, {"train.recipe": recipe, "train.nodes": "1x1"}
    )
    run_as_pod(image, *command, folders={given: "/given:ro", made: "/made"})
    digest = read_json(note_path(made / "run", "train"))["result"]["digest"]
    assert read_json(made / "run" / "train" / "final" / "manifest.json")["digest"] == digest


def test_the_server_answers_a_stream_and_stops_within_its_grace(
    image_of: Callable[[str], str],
    run_container: Callable[..., Running],
    bundle: Path,
    tmp_path: Path,
) -> None:
    from csm_serving.client import SpeechClient

    grpc, http, metrics = free_ports(3)
    server = run_container(
        image_of("serve"),
        folders={bundle: "/models/bundle:ro", writable(tmp_path / "run"): "/run/csm"},
        env={
            "CSM_SERVING_GRPC_PORT": str(grpc),
            "CSM_SERVING_HTTP_PORT": str(http),
            "CSM_SERVING_METRICS_PORT": str(metrics),
            "CSM_SERVING_READY_TIMEOUT_S": "300",
            "CSM_SERVING_EXIT_TIMEOUT_S": "20",
        },
        options=("--shm-size", "512m"),
    )
    server.until_answers(f"http://127.0.0.1:{http}/v2/models/csm/ready")
    with SpeechClient(f"127.0.0.1:{grpc}") as client:
        whole = [chunk.audio.tobytes() for chunk in client.stream("How are you today?", max_frames=50)]
        assert len(whole) > 25
        stream = client.stream("How are you today?", max_frames=50)
        begun = [next(stream).audio.tobytes()]
        containers.output("podman", "kill", "--signal", "TERM", server.name)
        rest = [chunk.audio.tobytes() for chunk in stream]
    assert begun + rest == whole, "the stream that was live is spoken to its end"
    status = int(containers.output("podman", "wait", server.name))
    assert status == 0, f"it ended by itself, before its exit timeout was over: {server.logs()}"
