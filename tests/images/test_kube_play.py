"""The chart's serving Deployment as rendered, with the built image and a real S3 store, and podman as the node."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import containers
import pytest
from chart_rendering import render
from kube_play import HOST, Played, play
from object_store import seaweedfs

pytestmark = pytest.mark.timeout(1800)  # the first test waits for the image to be built

KEYS = {"turn_key": "0" * 64}


def deployment_of(image: str, bundle_digest: str, endpoint: str) -> dict[str, Any]:
    repository, _, digest = image.partition("@")
    values = {
        "image.repository": repository,
        "image.digest": digest,
        "bundle.url": f"s3://csm/bundles/{bundle_digest}",
        "bundle.digest": bundle_digest,
        "storage.endpoint": endpoint,
        "drain.preStopSeconds": 2,
        "serving.longestStreamSeconds": 20,
        "serving.exitTimeoutSeconds": 20,
    }
    (deployment,) = (thing for thing in render("csm-serving", set=values) if thing["kind"] == "Deployment")
    return deployment


@pytest.fixture(scope="module")
def played(image_of: Callable[[str], str], bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    from csm_components.storage import open_storage

    if reason := containers.missing("catatonit", "slirp4netns"):
        pytest.skip(reason)
    image = image_of("serve")
    digest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["digest"]
    with seaweedfs(tmp_path_factory.mktemp("store")) as settings:
        open_storage("s3://csm/bundles", settings).put_tree(bundle, digest)
        port = settings.s3_endpoint.rpartition(":")[2]
        secrets = {
            "csm-storage": {
                "CSM_S3_ACCESS_KEY": settings.s3_access_key,
                "CSM_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
            },
            "csm-serving-keys": KEYS,
        }
        deployment = deployment_of(image, digest, f"http://{HOST}:{port}")
        with play(deployment, secrets, tmp_path_factory.mktemp("play")) as pod:
            pod.ready()
            yield pod


def test_the_pod_answers_a_stream_and_tells_its_metrics(played: Played) -> None:
    import urllib.request

    from csm_serving.client import SpeechClient

    with SpeechClient(f"127.0.0.1:{played.ports['grpc']}") as client:
        assert sum(1 for _ in client.stream("Good morning.", max_frames=5)) == 5
    with urllib.request.urlopen(f"http://127.0.0.1:{played.ports['metrics']}/metrics", timeout=5) as page:
        assert 'csm_frames_total{version="1"} ' in page.read().decode()
    assert '\\"outcome\\"' in played.logs(), "the audit is in the container's log"


def test_the_container_has_the_rights_that_the_chart_leaves_it(played: Played) -> None:
    seen = json.loads(containers.output("podman", "inspect", played.server))[0]
    assert seen["HostConfig"]["ReadonlyRootfs"] is True
    assert not seen["EffectiveCaps"]
    assert seen["Config"]["User"] == "10001:10001"
    written = "touch /models/bundle/x 2>/dev/null || touch /x 2>/dev/null || echo refused"
    assert played.podman("exec", played.server, "sh", "-c", written).strip() == "refused"


def test_the_pod_stops_within_its_grace_and_speaks_what_it_had_begun(played: Played) -> None:
    from csm_serving.client import SpeechClient

    with SpeechClient(f"127.0.0.1:{played.ports['grpc']}") as client:
        whole = [chunk.audio.tobytes() for chunk in client.stream("How are you today?", max_frames=50)]
        stream = client.stream("How are you today?", max_frames=50)
        begun = [next(stream).audio.tobytes()]
        stopped = threading.Event()
        stopping = threading.Thread(target=lambda: (played.stop(), stopped.set()))
        stopping.start()
        rest = [chunk.audio.tobytes() for chunk in stream]
        stopping.join()
    assert begun + rest == whole
    assert stopped.is_set(), "the pod could not be stopped"
    assert played.status() == 0, f"it ended by itself, before the end of its grace: {played.logs()}"
