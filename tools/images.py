"""Builds the images of docs/images.md with docker, podman or buildah; `make images` calls it.

python tools/images.py --python-digest sha256:...            data, train, serve and tracking
python tools/images.py --python-digest sha256:... --push     ... and into the registry
python tools/images.py serve-nvidia --python-digest sha256:... --triton-digest sha256:...

Prints what a profile and the charts' values need: every image by its digest. The same, and a bill of materials of each
image, is written into `dist/images`.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import environment
from image_builders import NAMES, Build, Builder, ImagesError, ask, choose

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "deploy" / "images" / "Containerfile"
TARGETS = ("data", "train", "serve", "serve-nvidia", "tracking")
DEFAULT_TARGETS = ("data", "train", "serve", "tracking")
REGISTRY = "ghcr.io/csm-foundry"
PYTHON_IMAGE = "docker.io/library/python:3.11-slim-bookworm"
TRITON_IMAGE = "nvcr.io/nvidia/tritonserver:25.06-py3"
BILL = "/usr/share/csm/sbom.cdx.json"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
CHARTS = {"serve": "csm-serving", "serve-nvidia": "csm-serving", "tracking": "csm-platform"}
"""The chart whose values name an image."""


def base_digest(given: str | None, image: str, option: str, *, local: bool, builder: Builder) -> str:
    """The digest of a base: as `given`, or, where that is allowed, that of the image as it lies here.

    Raises `ImagesError` where there is none: a tag may be another image tomorrow.
    """
    if given is not None:
        if not DIGEST.fullmatch(given):
            raise ImagesError(f"{option} {given!r} is no digest: give sha256: and 64 hexadecimal digits")
        return given
    if not local:
        raise ImagesError(
            f"{image} is not named by its digest: give {option} sha256:..., or --local-base for the one that lies here"
        )
    found = builder.digest(image)
    if not found:
        raise ImagesError(
            f"{builder.name} has no image {image} with a digest here: pull or import it, or give {option} sha256:..."
        )
    return found


def source_date(environ: Mapping[str, str]) -> int:
    """Seconds since 1970 of what is built: SOURCE_DATE_EPOCH, else the time of the last commit."""
    stated = environ.get("SOURCE_DATE_EPOCH")
    if stated is not None:
        if not stated.isdecimal():
            raise ImagesError(f"SOURCE_DATE_EPOCH is {stated!r}: give whole seconds since 1970, or leave it out")
        return int(stated)
    return int(git("log", "-1", "--format=%ct", cure="set SOURCE_DATE_EPOCH"))


def git(*words: str, cure: str) -> str:
    """What git says of this tree; raises `ImagesError` with the cure where it is none of git's."""
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ImagesError(f"this tree has no git history: {cure}")
    return done.stdout.strip()


def revision() -> str:
    """The commit that is built, marked where files were changed since."""
    changed = git("status", "--porcelain", "--untracked-files=no", cure="give --revision")
    return git("rev-parse", "HEAD", cure="give --revision") + ("-changed" if changed else "")


def index_settings(pip_config: str, cache: Path | None) -> tuple[dict[str, str], dict[Path, bool]]:
    """Where packages come from, in variables of pip and uv, and the folders of this machine that those name.

    `pip_config` is what `pip config list` prints.
    """
    settings = environment.index_settings(pip_config)
    for name, pip_name in (
        ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"),
        ("UV_INDEX", "PIP_EXTRA_INDEX_URL"),
        ("UV_FIND_LINKS", "PIP_FIND_LINKS"),
    ):
        if name in settings:
            settings[pip_name] = settings[name].replace(",", " ") if name == "UV_FIND_LINKS" else settings[name]
    folders = {}
    for word in " ".join(settings.values()).replace(",", " ").split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.is_dir():
            folders[path.parent if word.startswith("file://") else path] = False  # an index names files beside it
    if cache is not None:
        settings["UV_CACHE_DIR"] = str(cache)
        folders[cache] = True
    return settings, folders


def certificates(pip_config: str) -> Path | None:
    """The file of certificates that pip is told to trust."""
    found = re.search(r"^(?:global|install|:env:)\.cert='(.*)'$", pip_config, re.MULTILINE)
    return Path(found[1]) if found else None


def fragments(digests: Mapping[str, str], registry: str) -> dict[str, str]:
    """YAML by file name: what a profile and each chart's values need to know of the images."""
    texts = {}
    roles = [name for name in ("data", "train") if name in digests]
    if roles:
        rows = "".join(f"  {name}: {registry}/{name}@{digests[name]}\n" for name in roles)
        texts["profile.yaml"] = f"images:\n{rows}"
    for name, chart in CHARTS.items():
        if name in digests:
            texts[f"{chart}.yaml"] = f"image:\n  repository: {registry}/{name}\n  digest: {digests[name]}\n"
    return texts


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="images.py", description=__doc__.splitlines()[0])
    made.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all but serve-nvidia")
    made.add_argument("--python-image", default=PYTHON_IMAGE, help="base with Python 3.11 and its shared library")
    made.add_argument("--python-digest", help="the base's digest, sha256:...")
    made.add_argument("--triton-image", default=TRITON_IMAGE, help="NVIDIA's server, base of serve-nvidia")
    made.add_argument("--triton-digest", help="its digest")
    made.add_argument("--local-base", action="store_true", help="take the digest of a base as it lies on this machine")
    made.add_argument("--registry", default=REGISTRY, help="where the images belong, without a name")
    made.add_argument("--push", action="store_true", help="push, and print the registry's digests")
    made.add_argument("--builder", choices=NAMES, help="the first that works")
    made.add_argument("--isolation", choices=("oci", "chroot", "rootless"), help="of podman and buildah")
    made.add_argument("--cache", type=Path, help="uv's cache on this machine, so that nothing is fetched twice")
    made.add_argument("--revision", help="the commit that is built; git's")
    made.add_argument("--out", type=Path, default=ROOT / "dist" / "images", help="folder of bills and values")
    return made


def build_all(given: argparse.Namespace) -> int:
    """Builds, pushes where asked, writes and prints; raises `ImagesError`."""
    targets = given.targets or list(DEFAULT_TARGETS)
    for target in targets:
        if target not in TARGETS:
            raise ImagesError(f"{target} is no image: choose of {', '.join(TARGETS)}")
    builder = choose(given.builder)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    digest_of = {"local": given.local_base, "builder": builder}
    arguments = {
        "PYTHON_IMAGE": given.python_image,
        "PYTHON_DIGEST": base_digest(given.python_digest, given.python_image, "--python-digest", **digest_of),
    }
    if "serve-nvidia" in targets:
        arguments["TRITON_IMAGE"] = given.triton_image
        arguments["TRITON_DIGEST"] = base_digest(
            given.triton_digest, given.triton_image, "--triton-digest", **digest_of
        )
    epoch = source_date(os.environ)
    labels = {
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.revision": given.revision or revision(),
        "org.opencontainers.image.created": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "org.opencontainers.image.base.name": given.python_image,
        "org.opencontainers.image.base.digest": arguments["PYTHON_DIGEST"],
    }
    pip_config = ask(sys.executable, "-m", "pip", "config", "list")
    settings, folders = index_settings(pip_config, given.cache.absolute() if given.cache else None)
    given.out.mkdir(parents=True, exist_ok=True)
    digests = {}
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        index.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()), "utf-8")
        trusted = certificates(pip_config)
        secrets = {"index": index} | ({"ca": trusted} if trusted else {})
        for target in targets:
            started = time.monotonic()
            image = f"{given.registry}/{target}:{version}"
            of_base = {"TRITON_IMAGE", "TRITON_DIGEST"} if target == "serve-nvidia" else set()
            builder.build(
                Build(
                    context=ROOT,
                    file=FILE,
                    target=target,
                    image=image,
                    arguments={name: arguments[name] for name in {"PYTHON_IMAGE", "PYTHON_DIGEST"} | of_base},
                    labels=labels,
                    secrets=secrets,
                    folders=folders,
                    isolation=given.isolation,
                )
            )
            took = time.monotonic() - started
            (given.out / f"{target}.cdx.json").write_bytes(builder.read(image, BILL))
            digest = builder.push(image) if given.push else builder.digest(image)
            if digest is not None:
                digests[target] = digest
            print(f"{image}: {builder.size(image) / 1e6:,.0f} MB unpacked, {took:.0f} s", flush=True)
    print()
    for name, text in fragments(digests, given.registry).items():
        (given.out / name).write_text(text, encoding="utf-8")
        print(f"# {given.out / name}\n{text}")
    if not given.push:
        print("# Not pushed: so the images lie here, and in a registry they have other digests. --push prints those.")
    return 0


def main(arguments: list[str]) -> int:
    """Returns 2 with one line where images cannot be built as asked."""
    try:
        return build_all(parser().parse_args(arguments))
    except ImagesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
