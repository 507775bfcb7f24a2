"""Five tasks, each answered by the first screen of one page, whose commands are run here as they stand there.

Only addresses, names of files and dates are put in the place of the page's own; a cluster's commands are looked at by
`test_platform_page.py`, and what helm would install is rendered.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import soundfile
import yaml
from helm import find_helm
from object_store import seaweedfs
from ports import free_port, free_ports
from said_commands import blocks_of, commands_of, first_screen
from stand_in import StandIn
from waiting import HANG_S, eventually
from watching import Prometheus

from csm_components.buckets import make_bucket
from csm_model.files import digest_of_file
from csm_serving.client import SpeechClient

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PROGRAMS = Path(sys.executable).parent
CALL = first_screen(DOCS / "client.md")
VOICE = first_screen(DOCS / "voices.md")
DEPLOY = first_screen(DOCS / "platform.md")
ALERT = first_screen(DOCS / "runbooks" / "README.md")


def said(page: str, beginning: str) -> list[str]:
    """The words of the page's one command that begins so."""
    (found,) = [command for command in commands_of(page) if command.startswith(beginning)]
    return shlex.split(found)


def run(words: list[str], folder: Path, more: Mapping[str, str] | None = None) -> str:
    """Runs a command of this environment in a folder; what it prints, or an AssertionError with its error."""
    path = {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(
        words,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | path | (more or {}),
        timeout=300,
    )
    assert done.returncode == 0, f"{shlex.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def server() -> Iterator[StandIn]:
    stand_in = StandIn().start()
    yield stand_in
    stand_in.stop()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client as the page installs it, in a folder of its own; what it needs is in this environment."""
    folder = tmp_path_factory.mktemp("installed")
    words = said(CALL, "pip install")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(folder)]
    run([str(PROGRAMS / "uv"), *words[:2], "--python", sys.executable, *options, *words[2:]], ROOT)
    return folder


def python(code: str, installed: Path, folder: Path) -> str:
    """Runs code with the client that was installed, where torch cannot be imported."""
    head = f"import sys\nsys.path.insert(0, {str(installed)!r})\nsys.modules['torch'] = None\n"
    tail = f"\nimport csm_serving\nassert csm_serving.__file__.startswith({str(installed)!r}), csm_serving.__file__\n"
    return run([sys.executable, "-c", head + code + tail], folder)


def test_the_client_is_installed_and_called_from_threads(installed: Path, server: StandIn, tmp_path: Path) -> None:
    threads, _ = blocks_of(CALL, "python")
    code = threads.replace("127.0.0.1:8001", server.url)
    assert code != threads
    code = "heard = []\nplay = heard.append\n" + code + "\nprint(len(heard), heard[0].shape)\n"
    assert python(code, installed, tmp_path) == "8 (1920,)\n"
    (request,) = server.asked
    assert (request.text, request.speaker) == ("The train to the lake leaves at nine.", 1)


def test_the_client_is_called_from_asyncio_with_a_text_that_grows(
    installed: Path, server: StandIn, tmp_path: Path
) -> None:
    _, asynchronous = blocks_of(CALL, "python")
    first, rest = asynchronous.split("\n\n", 1)
    rest = rest.replace("gpu-1:8001", server.url).replace("gpu-2:8001", f"127.0.0.1:{free_port()}")
    code = f"""
import asyncio
{first}
heard = []
question = "Where to?"

async def play(audio):
    heard.append(audio)

async def language_model(question):
    for word in ("To ", "the ", "lake."):
        yield word

async def main():
{textwrap.indent(rest, "    ")}

asyncio.run(main())
print(len(heard))
"""
    assert python(code, installed, tmp_path) == "3\n"
    assert server.asked[0].voice == "heart"


def test_the_command_line_calls(server: StandIn, tmp_path: Path) -> None:
    words = [server.url if word == "127.0.0.1:8001" else word for word in said(CALL, "csm say")]
    assert server.url in words
    run(words, tmp_path)
    assert soundfile.info(str(tmp_path / "train.wav")).duration == pytest.approx(8 * 0.08)


def started(words: list[str], folder: Path, port: int) -> subprocess.Popen[str]:
    """`csm serve`, as soon as it serves."""
    ports = ["--grpc-port", str(port), "--http-port", "0", "--metrics-port", "0"]
    path = os.environ | {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}", "CSM_SERVING_FRAME_BUDGET": "0"}
    path |= {"CSM_SERVING_READY_TIMEOUT_S": "300"}
    serving = subprocess.Popen([*words, *ports], cwd=folder, stdout=subprocess.PIPE, text=True, env=path)
    assert serving.stdout is not None
    for line in serving.stdout:
        if line.startswith("serving "):
            return serving
    raise AssertionError(f"csm serve ended with {serving.wait()}")


def test_a_voice_is_added_spoken_with_and_revoked(bundle: Path, tmp_path: Path) -> None:
    samples, rate = soundfile.read(sorted((ROOT / "deploy" / "demo" / "corpus" / "audio").glob("*.opus"))[0])
    soundfile.write(tmp_path / "anna.wav", samples[: 5 * rate], rate)
    (consent,) = (json.loads(block) for block in blocks_of(VOICE, "json"))
    digest, _ = run(["sha256sum", "anna.wav"], tmp_path).split()
    assert digest == digest_of_file(tmp_path / "anna.wav")
    today = datetime.now(UTC).date()
    dates = {"given": str(today), "expires": str(today + timedelta(days=365))}
    (tmp_path / "anna.json").write_text(json.dumps(consent | dates | {"recording": digest}))

    added = run(said(VOICE, "csm voice add"), tmp_path)
    assert f"of Anna Example, until {dates['expires']}" in added
    assert "anna: Anna Example, speaker 0" in run(said(VOICE, "csm voice list"), tmp_path)

    port = free_port()
    words = [str(bundle) if word == "runs/latest/bundle" else word for word in said(VOICE, "csm serve")]
    assert str(bundle) in words
    serving = started(words, tmp_path, port)
    try:
        run([*said(VOICE, "csm say"), "--url", f"127.0.0.1:{port}"], tmp_path)
        assert soundfile.info(str(tmp_path / "morning.wav")).frames > 0
        assert "revoked" in run(said(VOICE, "csm voice revoke"), tmp_path)
        with SpeechClient(f"127.0.0.1:{port}") as client, pytest.raises(Exception, match="was revoked"):
            list(client.stream("Good morning.", voice="anna"))
    finally:
        serving.terminate()
        serving.wait(120)
        assert serving.stdout is not None
        serving.stdout.close()


def test_what_the_page_deploys_is_rendered_and_called(server: StandIn, tmp_path: Path) -> None:
    digest = "0a" * 32
    values = {"bundle": {"url": f"s3://csm/production/bundles/{digest}", "digest": digest}}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    words = [
        word for word in said(DEPLOY, "helm upgrade --install")[3:] if word not in ("--wait", "--create-namespace")
    ]
    words = [str(ROOT / word) if (ROOT / word).exists() else word for word in words]
    rendered = list(yaml.safe_load_all(run([find_helm(), "template", *words], tmp_path)))
    assert digest in json.dumps(rendered)
    (service,) = (each for each in rendered if each["kind"] == "Service" and each["metadata"]["name"] == "csm-serving")
    ports = {port["port"] for port in service["spec"]["ports"]}
    kind, port = said(DEPLOY, "kubectl --namespace csm-serving port-forward")[-2:]
    assert kind == "service/csm-serving"
    assert int(port) in ports
    run([server.url if word == "127.0.0.1:8001" else word for word in said(DEPLOY, "csm say")], tmp_path)


def test_the_plan_of_a_run_that_deploys_is_shown(tmp_path: Path) -> None:
    image = f"registry.example.com/csm@sha256:{'0' * 64}"
    with seaweedfs(tmp_path) as s3:
        assert s3.s3_secret_key is not None
        reached = {
            "CSM_S3_ENDPOINT": f"http://{s3.s3_endpoint}",
            "CSM_S3_ACCESS_KEY": str(s3.s3_access_key),
            "CSM_S3_SECRET_KEY": s3.s3_secret_key.get_secret_value(),
        }
        make_bucket("s3://csm", s3)
        shown = run(
            [*said(DEPLOY, "csm plan-run"), "--image", f"data={image}", "--image", f"train={image}"], ROOT, reached
        )
    assert re.search(r"^\W*deploy\b", shown, re.MULTILINE), shown


def test_an_alert_is_listed_routed_and_asked_about(tmp_path: Path) -> None:
    for program in ("prometheus-alertmanager", "prometheus"):
        if not any((Path(folder) / program).exists() for folder in os.environ["PATH"].split(os.pathsep)):
            pytest.skip(f"{program} is not here; it is in Debian's package of that name")
    port, peers = free_ports(2)
    manager = subprocess.Popen(
        [
            "prometheus-alertmanager",
            f"--config.file={ROOT / 'deploy' / 'monitoring' / 'alertmanager.yaml'}",
            f"--storage.path={tmp_path / 'alerts'}",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--cluster.listen-address=127.0.0.1:{peers}",
            "--log.level=error",
        ]
    )
    here = f"http://127.0.0.1:{port}"
    try:
        add = ["amtool", "alert", "add", "--alertmanager.url", here, "CsmQueueGrows", "severity=warning"]
        eventually(
            lambda: manager.poll() is not None or not subprocess.run(add, capture_output=True, check=False).returncode,
            "the Alertmanager takes no alert",
        )
        assert manager.poll() is None, "the Alertmanager ended"
        query = [
            here if word.startswith("http://alertmanager.") else word for word in said(ALERT, "amtool alert query")
        ]
        assert here in query
        assert "CsmQueueGrows" in run(query, ROOT)
    finally:
        manager.terminate()
        manager.wait(HANG_S)
    assert run(said(ALERT, "amtool config routes test"), ROOT).strip() == "channel"
    assert "SUCCESS" in run(said(ALERT, "promtool test rules"), ROOT)
    with Prometheus(tmp_path, []) as prometheus:
        prometheus.until("vector(1)")
        asked = said(ALERT, "promtool query instant")
        asked[3] = f"http://{prometheus.address}"
        run(asked, ROOT)
