"""What a test starts, read from its code and its fixtures': the marks that it gets, none of them by hand.

A test is followed into the helpers and fixtures that it names, as far as they stand in this repository; texts of
programs that it starts are read for the names of starters too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent.parent

MARKS: Final = {
    "triton": "starts a Triton, or speaks with one",
    "s3": "starts SeaweedFS",
    "mlflow": "keeps runs in MLflow",
    "prometheus": "starts Prometheus, its gateway, or its tools",
    "postgres": "starts the platform's database and what stands on it",
    "cluster": "plays a cluster: pods, jobs, a platform's servers, pipelines in shards",
    "containers": "builds or runs container images",
    "helm": "renders charts with helm",
    "processes": "starts processes that train, serve a cluster's API, or are killed",
    "judges": "listens with the judges: a recogniser, an opinion score, a speaker encoder",
    "kfp": "compiles or runs Kubeflow pipelines",
    "kills": "a full count of kills",
    "bits": "holds what is promised to the bit",
    "company": "holds it for every number of streams",
}
"""Every mark of this suite, and what it says."""

STARTERS: Final[Mapping[str, str]] = {
    "LocalTriton": "triton",
    "seaweedfs": "s3",
    "Tracker": "mlflow",
    "watching.Prometheus": "prometheus",
    "served.prometheus.scraping": "prometheus",
    "promtool": "prometheus",
    "prometheus-pushgateway": "prometheus",
    "rendered_processes.Machine": "postgres cluster",
    "containers.build_image": "containers",
    "containers.make_base": "containers",
    "containers.running": "containers",
    "chart_rendering._helm": "helm",
    "find_helm": "helm",
    "launch": "processes",
    "Kubelet": "processes cluster",
    "Popen": "processes",
    "judges.Recogniser": "judges",
    "judges.Mos": "judges",
    "judges.SpeakerJudge": "judges",
    "annotate.step.annotate": "judges",
    "words.hear": "judges",
    "who.find_speakers": "judges",
    "SubprocessRunner": "kfp",
    "DockerRunner": "kfp",
    "compiler.Compiler": "kfp",
    "compile_pipeline": "kfp",
}
"""What starts something, by the end of its full name, and the marks that follow."""

OF_FIXTURES: Final[Mapping[str, tuple[str, ...]]] = {
    "e2e/test_debug_run.py::story": ("triton", "mlflow", "judges", "processes", "kfp"),
    "e2e/test_sound_alone.py::story": ("triton", "mlflow", "judges", "processes"),
    "e2e/test_training_pipeline.py::story": ("mlflow", "processes", "kfp", "cluster"),
    "components/test_data_components.py::cluster": ("cluster",),
    "model/test_company.py::found": ("company",),
}
"""Fixtures that start a program which starts the rest: their code does not name it."""

BITS: Final = (
    "model/test_affine.py",
    "model/test_batch.py",
    "model/test_codec.py",
    "model/test_codec_loops.py",
    "model/test_generator.py",
    "model/test_kernels.py",
    "model/test_mimi.py",
    "model/test_quantize.py",
    "model/test_slot_decoder.py",
    "model/test_stack.py",
)
"""Files whose tests compare sound and codes to the bit; so do all tests with the fixture `isa`."""

_HERE: Final = tuple(str(ROOT / folder) for folder in ("tests", "benchmarks", "tools"))
_BY_LAST: Final = {name.rpartition(".")[2]: (name, mark) for name, mark in STARTERS.items()}


COLLECTED: Final = pytest.StashKey[dict[str, set[str]]]()
"""The marks of every test that was collected, by its id, those of other lanes among them."""


def marks_of(item: pytest.Function) -> set[str]:
    """The marks of a test, by what its code and its fixtures' start."""
    found = set(_of_function(item.function))
    if "isa" in item.fixturenames or _place(item.function) in BITS:
        found.add("bits")
    for name, definitions in item._fixtureinfo.name2fixturedefs.items():
        for definition in definitions:
            found |= _of_function(definition.func)
            found |= set(OF_FIXTURES.get(f"{_place(definition.func)}::{name}", ()))
    return found


def _place(function: Any) -> str:
    """The file of a function, from `tests` on."""
    return Path(function.__code__.co_filename).as_posix().rpartition("/tests/")[2]


@cache
def _of_function(function: Any) -> frozenset[str]:
    return frozenset(_search(getattr(function, "__wrapped__", function), set()))


def _search(function: Any, seen: set[int]) -> Iterator[str]:
    """Marks of what a function names, and of the functions of this repository that it names."""
    function = getattr(function, "__wrapped__", function)
    if not isinstance(function, FunctionType) or id(function) in seen:
        return
    seen.add(id(function))
    names, texts = _names_and_texts(function.__code__)
    words = set().union(*(re.findall(r"[\w.-]+", text) for text in texts)) if texts else set()
    for word in words:
        if (starter := _BY_LAST.get(word.rpartition(".")[2])) and "." not in starter[0]:
            yield from starter[1].split()
    for thing in _things(function, names):
        full = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
        last = full.rpartition(".")[2]
        if last in _BY_LAST and f".{full}".endswith(f".{_BY_LAST[last][0]}"):
            yield from _BY_LAST[last][1].split()
        elif isinstance(thing, type) and _is_here(thing):
            for member in vars(thing).values():
                yield from _search(member, seen)
        elif isinstance(thing, FunctionType) and thing.__code__.co_filename.startswith(_HERE):
            yield from _search(thing, seen)


def _names_and_texts(code: CodeType) -> tuple[set[str], set[str]]:
    """All names and all strings of a code, with those of the functions inside it."""
    names, texts = set(code.co_names), {text for text in code.co_consts if isinstance(text, str)}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more_names, more_texts = _names_and_texts(inner)
            names |= more_names
            texts |= more_texts
    return names, texts


def _things(function: FunctionType, names: set[str]) -> Iterator[Any]:
    """What names stand for in a function's module, and in the modules among them."""
    for name in names:
        thing = function.__globals__.get(name)
        inside = [vars(thing).get(inner) for inner in names] if isinstance(thing, ModuleType) else [thing]
        for found in inside:
            if callable(found):
                yield getattr(found, "func", getattr(found, "__wrapped__", found))


def _is_here(thing: type) -> bool:
    module = sys.modules.get(thing.__module__)
    return str(getattr(module, "__file__", "")).startswith(_HERE)
