"""The step deploy: publishes a bundle that the gate let through, and rolls it out.

In the storage (`CSM_STORAGE`):

| key | what it is |
| --- | --- |
| `bundles/DIGEST/` | the bundle with its verdict: a tree under its digest, there whole or not at all |
| `releases/MODEL/versions/VERSION.yaml` | values of the chart csm-serving for this version: the way back |
| `releases/MODEL/values.yaml` | those of the latest version |
| `releases/MODEL/release.json` | which that is; written last |

Everything can be repeated, and a killed one started again. What is rolled out by whom says `CSM_DEPLOY_TARGET`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csm_components.register.judged import judged_bundle
from csm_components.register.step import RESULT as REGISTERED
from csm_components.settings import Settings, load_settings
from csm_components.storage import Storage, open_storage
from csm_model.errors import ArtifactError, InputError
from csm_model.files import read_json, write_bytes, write_json
from csm_model.manifest import read_manifest

if TYPE_CHECKING:
    from csm_components.tracking import Tracker

RESULT = "result.json"
VALUES = "values.yaml"
RELEASE = "release.json"


@dataclass(frozen=True, kw_only=True)
class DeployResult:
    """A release; JSON-able."""

    out: str
    model: str
    version: int
    digest: str
    """Digest of the bundle."""
    url: str
    """Address of its tree."""
    rolled_out: bool
    """Whether it serves; False where the target is `none`: published for others to roll out."""
    reused: bool
    """Whether the bundle had been published before."""


def deploy(
    bundle: Path,
    version: Path,
    out: Path,
    *,
    model: str,
    tracker: Tracker | None = None,
    settings: Settings | None = None,
    say: Callable[[str], None] = print,
) -> DeployResult:
    """Publishes a bundle and rolls it out.

    Args:
        bundle: folder of the bundle; not written to.
        version: folder that register wrote of it.
        out: folder for the result: the values file too.
        model: name of the registered model.
        tracker: where the model is registered; its version then names the address.
        settings: storage and target; the environment's without them.
        say: called with lines of progress.

    Raises:
        InputError: the gate did not let it through, it is of another model, or there is no storage.
        DigestError: a file of the bundle is not the one that its manifest names.
        ArtifactError: register judged another bundle.
        RolloutError: it is published, but does not serve.
    """
    settings = settings or load_settings()
    digest, number = _promoted(bundle, version, model)
    storage, key = open_storage(settings=settings), f"bundles/{digest}"
    url = f"{settings.storage.rstrip('/')}/{key}"
    known = storage.has_tree(key)
    with judged_bundle(bundle, version) as folder:
        storage.put_tree(folder, key)
    say(f"published {url}")
    values = {"bundle": {"url": url, "digest": digest}, "release": {"model": model, "version": str(number)}}
    _publish_values(storage, model, number, values, out)
    if tracker is not None:
        tracker.tag_version(model, number, {"published": url})
    target = settings.deploy_target
    if target.kind == "argocd":
        from csm_components.cluster import Cluster
        from csm_components.deploy.argocd import roll_out

        roll_out(Cluster(target.namespace), target, values, say=say)
    result = DeployResult(
        out=str(out),
        model=model,
        version=number,
        digest=digest,
        url=url,
        rolled_out=target.kind != "none",
        reused=known,
    )
    write_json(out / RESULT, asdict(result))
    return result


def _promoted(bundle: Path, version: Path, model: str) -> tuple[str, int]:
    """Digest and version of a bundle that the gate let through, after every file of it was checked."""
    registered = read_json(version / REGISTERED)
    if registered["model"] != model:
        raise InputError(f"{version}: is a version of {registered['model']!r}, not of {model!r}")
    if not registered["promoted"]:
        raise InputError(
            f"version {registered['version']} of {model} is not released: {'; '.join(registered['misses'])}; "
            "deploy one that passed the gate"
        )
    digest = str(read_manifest(bundle)["digest"])
    if registered["digest"] != digest:
        raise ArtifactError(
            f"{version}: registers bundle {registered['digest'][:12]}, not {bundle} ({digest[:12]}); "
            "give the bundle that was registered"
        )
    return digest, int(registered["version"])


def _publish_values(storage: Storage, model: str, version: int, values: Mapping[str, Any], out: Path) -> None:
    """Writes the values of a release, here and in the storage, and last that it is the latest."""
    import yaml

    text = f"# {model}, version {version}: values of the chart csm-serving.\n{yaml.safe_dump(dict(values))}"
    write_bytes(out / VALUES, text.encode())
    kept = f"versions/{version}.yaml"
    pointer = {"format": 1, "model": model, "version": version, "values": kept, **values["bundle"]}
    storage.put_file(out / VALUES, f"releases/{model}/{kept}")
    storage.put_file(out / VALUES, f"releases/{model}/{VALUES}")
    storage.put_json(pointer, f"releases/{model}/{RELEASE}")
