"""Something that speaks with a bundle: a Triton that is started for it, or this process where there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from csm_model.errors import MissingDependencyError
from csm_serving.client.speech import SpeechService


@contextlib.contextmanager
def service(bundle: Path, *, say: Callable[[str], None] = print) -> Iterator[tuple[SpeechService, bool]]:
    """Something that speaks with `bundle`, and whether it is a Triton: this process where the machine has none."""
    from csm_serving.client import SpeechClient
    from csm_serving.launcher.installation import find_installation
    from csm_serving.launcher.triton import LocalTriton
    from csm_serving.settings import load_settings

    settings = load_settings(grpc_port=0, http_port=0, metrics_port=0).unguarded()
    try:
        find_installation(settings.triton)
    except MissingDependencyError as error:
        from csm_serving.server.local import LocalSpeech

        say(f"no Triton here ({error}): speaking in this process")
        yield LocalSpeech(bundle), False
        return
    say("starting Triton")
    with LocalTriton(bundle, settings=settings) as triton, SpeechClient(triton.url) as client:
        say(f"Triton serves {bundle.name} on {triton.url}")
        yield client, True
