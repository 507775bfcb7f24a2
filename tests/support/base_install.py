"""Runs command lines as the base install would: what only extras bring cannot be imported.

`python base_install.py` reads a JSON list of command lines, each a list of words, from standard input, and prints a
list of `[status, standard output, standard error]`; a traceback is no status.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import io
import json
import sys
import traceback

OF_EXTRAS = {
    *("av", "boto3", "distillmos", "faster_whisper", "hibari", "jiwer", "kfp", "kfp_server_api", "kubernetes"),
    *("lhotse", "llvmlite", "matplotlib", "mlflow", "moshi", "numba", "perth", "psutil", "psycopg2", "pytriton"),
    *("resemblyzer", "safetensors", "scipy", "sklearn", "tokenizers", "torch", "torchaudio", "torchx", "yaml"),
}


class Absent(importlib.abc.MetaPathFinder):
    """Finds none of them."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in OF_EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def outcome(words: list[str]) -> tuple[int | None, str, str]:
    from csm_cli.cli import main

    out, err = io.StringIO(), io.StringIO()
    status: int | None = None
    sys.argv = ["csm", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
    return status, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent())
    json.dump([outcome(words) for words in json.load(sys.stdin)], sys.stdout)
