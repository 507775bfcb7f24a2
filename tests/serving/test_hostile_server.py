"""A real Triton under requests that nobody should send, under more streams than it has slots, and told to stop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from served import attacks, drain, hostile, overload
from served.listeners import TEXTS, Taken, connected, listen
from served.raw import ask, channel_to
from served.server import counted, processes
from waiting import HANG_S

from csm_serving.launcher.triton import LocalTriton
from csm_serving.settings import load_settings
from csm_serving.wire.errors import BusyError, UnavailableError
from csm_serving.wire.protocol import SpeechRequest

SPEAKERS = (0, 1)
SLOTS = 4
GRACE_S = HANG_S


SETTINGS = {
    "grpc_port": 0,
    "http_port": 0,
    "metrics_port": 0,
    "slots": SLOTS,
    "frame_budget": 0,
    "keepalive_s": 1,
    "ready_timeout_s": HANG_S,
    "exit_timeout_s": GRACE_S,
}


@pytest.fixture(scope="module")
def served(bundle: Path) -> Iterator[LocalTriton]:
    # Triton 2.51 waits for calls that were cancelled just when they were refused, and never ends them: no grace.
    with LocalTriton(bundle, settings=load_settings(**SETTINGS | {"exit_timeout_s": 0})) as running:
        yield running


def heard(triton: LocalTriton) -> Taken:
    async def one() -> Taken:
        async with connected(triton.url) as client:
            return await listen(client, SpeechRequest(text=TEXTS[0], speaker=0, max_frames=12))

    taken = asyncio.run(one())
    assert len(taken.codes) == 12, taken.failure
    return taken


@pytest.mark.parametrize("kind", [made for made, _ in attacks.ATTACKS], ids=lambda made: made.__name__)
def test_every_kind_of_wrong_request_has_an_error_of_its_own_and_leaves_the_server_alive(
    served: LocalTriton, kind: object
) -> None:
    ground = attacks.Ground(speakers=SPEAKERS, heard=heard(served))
    before, outcomes = processes(served), Counter[str]()

    async def all_of_them() -> None:
        async with channel_to(served.url) as channel:
            for number in range(40):
                attack = kind(ground, np.random.default_rng(number))  # type: ignore[operator]
                answered = await ask(channel, attack.messages)
                for outcome in (answered.outcome, *answered.errors):
                    assert outcome in attack.may, f"{number}: {answered}"
                outcomes[answered.outcome] += 1

    asyncio.run(all_of_them())
    assert processes(served) == before
    if kind not in (attacks.odd_text, attacks.poisoned_text, attacks.anything):
        assert outcomes["spoken"] < 20


def test_listeners_hear_nothing_of_attackers(served: LocalTriton) -> None:
    done = hostile.run(served, count=250, speakers=SPEAKERS, listeners=2, readings=1, max_frames=60)
    assert not done.died
    assert not done.said
    assert not done.wrong
    assert not done.left_live
    assert len(done.disturbed) >= 2
    assert not done.changed
    assert sum(done.outcomes.values()) >= done.count == 250


def test_what_finds_no_slot_is_told_when_to_come_again(served: LocalTriton) -> None:
    taken = overload.sustained(served, seconds=3, speakers=SPEAKERS, clients=5 * SLOTS)
    refused = [stream for stream in taken if stream.busy]
    assert refused
    for stream in refused:
        assert isinstance(stream.failure, BusyError)
        assert stream.failure.retry_after_s is not None
    spoken = [stream for stream in taken if not stream.busy]
    assert len(spoken) >= SLOTS
    assert all(stream.end is not None for stream in spoken)
    assert counted(served, "csm_live_streams") == 0


def test_sigterm_while_all_slots_speak_loses_no_frame(bundle: Path) -> None:
    with LocalTriton(bundle, settings=load_settings(**SETTINGS)) as fresh:
        drained = drain.sigterm(fresh, drain.stories(SLOTS, SPEAKERS, max_frames=150), grace_s=GRACE_S)
    assert drained.whole == SLOTS
    assert all(frames < 150 for frames in drained.frames_at)
    assert drained.status == 0
    assert drained.refused is not None
    assert isinstance(drained.refused.failure, UnavailableError)
