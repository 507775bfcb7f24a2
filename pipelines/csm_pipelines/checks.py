"""What is wrong with a run is said before its first step: all of it, in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from csm_components.ingest.licenses import license_of_folder
from csm_components.ingest.policy import load_policy
from csm_components.targets import TrainTarget
from csm_components.tokenise.tokenizer import given_tokenizer, made_by_path
from csm_model.errors import CsmError, InputError
from csm_model.files import read_json
from csm_model.manifest import read_manifest
from csm_model.training.replay import check_replay
from csm_pipelines.config import MAKE, RunConfig
from csm_pipelines.dotted import applied
from csm_pipelines.fit import misfits, pod_of, this_machine
from csm_pipelines.presets import resolve
from csm_serving.client.dialogue import read_dialogue

RANDOM_CODEC = "random"
_MADE_HERE = (("codec", RANDOM_CODEC), ("annotations", MAKE))
_FILES = (
    ("corpus", None),
    ("annotations", "manifest.json"),
    ("codec", "codec.json"),
    ("base", "manifest.json"),
    ("replay", "manifest.json"),
)
"""The folders that a configuration names, each with the file that makes it what it should be."""


def check_config(config: RunConfig, settings: Iterable[str] = (), *, target: TrainTarget | None = None) -> RunConfig:
    """The configuration with some settings and absolute paths, after checking all that can be known before a run.

    Addresses of the storage stay as they are: whoever reads them says whether they are there.

    Args:
        config: a preset's.
        settings: `SECTION.FIELD=VALUE`.
        target: the cluster that trains, whose pods must hold the training; this machine where None.

    Raises:
        InputError: a setting that there is none of or that breaks its rule; no such corpus, codec, base, replay or
            tokenizer; a policy that breaks a rule; another tokenizer or codec than the base's; a dialogue of another
            form; a recipe that does not fit base, processes or memory. Several are told together.
        ArtifactError: what is given is damaged, or a replay is of another codec or tokenizer.
    """
    config, problems = applied(config, settings)
    findings = _Findings(problems)
    found: dict[str, str] = {}
    for name, file in _FILES:
        value = getattr(config.data, name)
        if value is not None and (name, value) not in _MADE_HERE:
            with findings.of(f"data.{name}"):
                found[name] = value if _is_address(f"data.{name}", value) else str(_folder(name, value, file))
    if config.data.annotations == MAKE:
        with findings.of("data.license"):
            _check_license(config, found)
    with findings.of("data.tokenizer"):
        found |= _tokenizer(config)
    with findings.of("data.policy"):
        found |= _policy(config)
    if config.data.base is None or "base" in found:
        with findings.of("data.tokenizer or data.prompt_format"):
            _check_tokenizer(config, found)
    with findings.of("data.replay"):
        _check_replay(found)
    dialogue: dict[str, str] = {}
    with findings.of("release.dialogue"):
        dialogue = _dialogue(config)
    if not any(line.startswith("train.") for line in problems):
        with findings.of("train.recipe"):
            room = this_machine() if target is None else pod_of(target)
            findings.errors += misfits(config, _here(found, "base"), _here(found, "codec"), room=room)
        with findings.of("train.recipe"):
            _check_places(config)
    findings.raise_them()
    return config.changed(data=found, release=dialogue)


class _Findings:
    """All that is wrong so far."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.errors: list[CsmError] = [InputError(line) for line in lines]

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Keeps what is raised of a setting; a line that does not name it says so."""
        try:
            yield
        except CsmError as error:
            named = name in str(error)
            self.errors.append(error if named else type(error)(f"{name}: {error}"))

    def raise_them(self) -> None:
        """Raises the one error as it is, or several as one line."""
        lines = list(dict.fromkeys(str(error) for error in self.errors))
        if len(lines) == 1:
            raise self.errors[0]
        if lines:
            raise InputError("; ".join(lines))


def _check_license(config: RunConfig, found: Mapping[str, str]) -> None:
    """Raises `InputError` for sound that nobody says a licence of: all of it would be left out, hours later."""
    corpus = _here(found, "corpus")
    if corpus is not None and config.data.license is None and license_of_folder(corpus, {}) is None:
        raise InputError(
            f"{corpus} names no licence, so all of it would be left out: put a LICENSE file into it, or give one with "
            "--set data.license=NAME"
        )


def _dialogue(config: RunConfig) -> dict[str, str]:
    """The absolute path of the dialogue, which is read for the sake of what is wrong with it."""
    if config.release.dialogue is None:
        return {}
    path = resolve(config.release.dialogue).absolute()
    read_dialogue(path)
    return {"dialogue": str(path)}


def _policy(config: RunConfig) -> dict[str, str]:
    """The absolute path of the policy, which is read for the sake of what is wrong with it; an address as it is."""
    setting = config.data.policy
    if setting is not None and _is_address("data.policy", setting):
        return {"policy": setting}
    path = None if setting is None else resolve(setting).absolute()
    policy = load_policy(path)
    if config.data.license is not None:
        policy.check_license(config.data.license)
    return {} if path is None else {"policy": str(path)}


def _tokenizer(config: RunConfig) -> dict[str, str]:
    """The absolute path of a tokenizer that is named by one; an address as it is."""
    setting = config.data.tokenizer
    if not setting or not made_by_path(setting):
        return {}
    return {"tokenizer": setting if _is_address("data.tokenizer", setting) else str(resolve(setting).absolute())}


def _check_tokenizer(config: RunConfig, found: Mapping[str, str]) -> None:
    tokenizer, base = found.get("tokenizer", config.data.tokenizer), found.get("base")
    if not any("://" in value for value in (tokenizer or "", base or "")):
        given_tokenizer(tokenizer, config.data.prompt_format, Path(base) if base else None)


def _check_replay(found: Mapping[str, str]) -> None:
    if (replay := _here(found, "replay")) is not None:
        check_replay(str(replay), read_json(replay / "manifest.json"), _its_codec(found))


def _its_codec(found: Mapping[str, str]) -> dict[str, str]:
    """Digests of the codec and of the tokenizer that a run's tokens will have, as far as they are known here."""
    known: dict[str, str | None] = {}
    if (codec := _here(found, "codec")) is not None:
        known["codec_digest"] = read_json(codec / "codec.json").get("digest")
    if (base := _here(found, "base")) is not None:
        known["tokenizer_digest"] = read_manifest(base, verify=False).get("tokenizer_digest")
    return {name: digest for name, digest in known.items() if digest}


def _check_places(config: RunConfig) -> None:
    """Raises `InputError` for places in a recipe that are none."""
    mirror, checkpoint = config.train.recipe.get("mirror"), config.train.recipe.get("checkpoint")
    if mirror:
        _is_address("train.recipe.mirror", mirror)
    if checkpoint and not Path(checkpoint).exists():
        raise InputError(f"train.recipe.checkpoint {checkpoint}: no such file or folder")


def _here(found: Mapping[str, str], name: str) -> Path | None:
    """The folder of an input; None where none is given, or it is in the storage."""
    value = found.get(name)
    return Path(value) if value is not None and "://" not in value else None


def _is_address(name: str, value: str) -> bool:
    """Whether a value names a tree of the storage."""
    if "://" not in value:
        return False
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[^/\s]+)+/?", value):
        raise InputError(f"{name} {value!r}: an address is s3://bucket/prefix/key, of a tree in the storage")
    return True


def _folder(name: str, value: str, file: str | None) -> Path:
    """A folder that is there, with the file that makes it what it should be."""
    folder = resolve(value).absolute()
    if name == "corpus" and not folder.is_dir():
        what = "is not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{value}: {what}; a corpus is a folder of audio and text")
    if file is not None and not (folder / file).is_file():
        raise InputError(f"{value}: no {name} there (no {file}); name another with --set data.{name}=FOLDER")
    return folder
