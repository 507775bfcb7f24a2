"""A token fits the frames, the speaker and the key that it was made for, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from csm_model.errors import InputError
from csm_serving.server.tokens import TOKEN_BYTES, TurnKey

HEX = "00112233445566778899aabbccddeeff" * 2
CODES = np.random.default_rng(0).integers(0, 2048, (8, 40)).astype(np.int32)


def tokens_of(key: TurnKey, who: str, codes: np.ndarray) -> list[bytes]:
    chain = key.begin(who)
    return [chain.next(frame) for frame in codes.T]


def test_every_frame_has_a_token_of_its_own_that_fits_all_frames_up_to_it() -> None:
    key = TurnKey()
    tokens = tokens_of(key, "speaker:1", CODES)
    assert {len(token) for token in tokens} == {TOKEN_BYTES}
    assert len(set(tokens)) == len(tokens)
    for frames in (1, 17, 40):
        assert key.verify("speaker:1", CODES[:, :frames], tokens[frames - 1])
        assert not key.verify("speaker:1", CODES[:, :frames], tokens[(frames + 1) % 40])


def test_what_was_changed_does_not_fit() -> None:
    key = TurnKey()
    token = tokens_of(key, "speaker:1", CODES)[-1]
    changed = CODES.copy()
    changed[3, 20] ^= 1
    assert not key.verify("speaker:1", changed, token)
    assert not key.verify("speaker:1", CODES[:, 1:], token)
    assert not key.verify("speaker:1", CODES[:, ::-1], token)
    assert not key.verify("speaker:1", CODES[:7], token)
    assert not key.verify("speaker:1", CODES.reshape(4, 80), token), "the same integers in another shape"
    assert not key.verify("speaker:2", CODES, token)
    assert not key.verify("voice:speaker:1", CODES, token)


@pytest.mark.parametrize("token", [b"", b"\0" * TOKEN_BYTES, b"\xff" * 15, b"x" * 1000])
def test_no_token_fits(token: bytes) -> None:
    assert not TurnKey().verify("speaker:0", CODES, token)


def test_a_cut_token_does_not_fit() -> None:
    key = TurnKey()
    token = tokens_of(key, "a", CODES)[-1]
    assert not key.verify("a", CODES, token[:8])
    assert not key.verify("a", CODES, token + b"\0")


def test_nothing_spoken_has_no_token() -> None:
    key = TurnKey()
    empty = np.zeros((8, 0), np.int32)
    assert not key.verify("a", empty, key.begin("a").token())
    assert not key.verify("a", CODES[0], key.begin("a").token())


def test_servers_with_one_key_take_each_others_tokens_and_others_do_not() -> None:
    token = tokens_of(TurnKey.from_hex(HEX), "voice:anna", CODES)[-1]
    assert TurnKey.from_hex(HEX.upper()).verify("voice:anna", CODES.astype(np.int64), token)
    assert not TurnKey().verify("voice:anna", CODES, token)
    assert not TurnKey.from_hex("ff" + HEX[2:]).verify("voice:anna", CODES, token)


def test_a_stream_that_goes_on_has_the_tokens_of_one_that_was_not_broken() -> None:
    key = TurnKey()
    whole = tokens_of(key, "speaker:0", CODES)
    chain = key.begin("speaker:0", CODES[:, :25])
    assert chain.token() == whole[24]
    assert [chain.next(frame) for frame in CODES[:, 25:].T] == whole[25:]


def test_streams_of_one_key_do_not_touch_each_other() -> None:
    key = TurnKey.from_hex(HEX)
    one, two = key.begin("a"), key.begin("b")
    mixed = [(one.next(frame), two.next(frame)) for frame in CODES.T]
    assert [first for first, _ in mixed] == tokens_of(key, "a", CODES)
    assert [second for _, second in mixed] == tokens_of(key, "b", CODES)


@pytest.mark.parametrize("text", ["", "0011", "no hex at all, but long enough to be one", HEX[:-1]])
def test_a_bad_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(InputError, match="openssl rand -hex 32") as refused:
        TurnKey.from_hex(text)
    assert not text or text not in str(refused.value)


def test_a_key_does_not_show() -> None:
    key = TurnKey.from_hex(HEX)
    assert HEX not in repr(key) + str(vars(key))
    assert not key.random
    assert TurnKey.from_hex(None).random


def test_codes_that_are_no_integers_are_refused() -> None:
    with pytest.raises(InputError, match="integers"):
        TurnKey().begin("a").next(np.zeros(8, np.float32))
