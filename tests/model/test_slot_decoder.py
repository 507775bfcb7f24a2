"""Slot decoders: a stream sounds as its whole decode does, to the bit, whatever its slot, pieces and neighbours."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from csm_model.codec import AudioCodec, RvqCodec, RvqConfig
from csm_model.codec.mimi import MimiCodec
from csm_model.codec.mimi_decoder import MimiDecoder, MimiShape, MimiSlotDecoder
from csm_model.codec.slots import rows_of
from csm_model.errors import InputError

STREAMS, FRAMES, SLOTS = 6, 11, 9


def decoded_by_slots(codec: AudioCodec, codes: torch.Tensor, *, seed: int) -> list[torch.Tensor]:
    """What streams `codes` `[B, K, T]` sound like when any of them step together, at different frames, in any slots.

    Some are left and taken up again by replay in another slot.
    """
    chance = random.Random(seed)
    decoder = codec.slot_decoder(SLOTS)
    streams, _, frames = codes.shape
    free = chance.sample(range(SLOTS), SLOTS)
    place = [free.pop() for _ in range(streams)]
    done = [0] * streams
    heard: list[list[torch.Tensor]] = [[] for _ in range(streams)]
    while min(done) < frames:
        count = chance.choice([1, 1, 2, 3])
        ready = [stream for stream in range(streams) if done[stream] + count <= frames]
        chosen = chance.sample(ready, chance.randint(min(1, len(ready)), len(ready)))
        if not chosen:
            continue
        pieces = torch.stack([codes[stream, :, done[stream] : done[stream] + count] for stream in chosen])
        for stream, sound in zip(chosen, decoder.step(pieces, [place[stream] for stream in chosen]), strict=True):
            heard[stream].append(sound)
            done[stream] += count
        if chance.random() < 0.2:
            moved = chance.choice(chosen)
            free.insert(0, place[moved])
            place[moved] = free.pop()
            decoder.reset(place[moved])
            replayed = decoder.step(codes[[moved], :, : done[moved]], [place[moved]])
            assert torch.equal(replayed[0], torch.cat(heard[moved], dim=1))
    return [torch.cat(parts, dim=1) for parts in heard]


@pytest.fixture(scope="module", params=["debug", "full", "voicing", "mimi"])
def codec(request: pytest.FixtureRequest) -> AudioCodec:
    if request.param == "mimi":
        return MimiCodec.random(0, num_codebooks=4)
    torch.manual_seed(0)
    sizes = {"debug": RvqConfig.debug(), "full": RvqConfig(), "voicing": replace(RvqConfig.debug(), voicing=True)}
    return RvqCodec(sizes[request.param]).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def codes(codec: AudioCodec) -> torch.Tensor:
    size = (STREAMS, codec.num_codebooks, FRAMES)
    return torch.randint(codec.codebook_size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("threads", [1, 2])
def test_streams_of_any_slots_equal_their_whole_decode_to_the_bit(
    codec: AudioCodec, codes: torch.Tensor, threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if threads > 1:  # which waits long where other programs have the cores
            codes = codes[:3, :, :3]
        for stream, sound in enumerate(decoded_by_slots(codec, codes, seed=0)):
            assert torch.equal(sound, codec.decode(codes[[stream]])[0]), f"stream {stream}"
    finally:
        torch.set_num_threads(before)


def test_a_slot_that_is_reset_remembers_nothing(codec: AudioCodec, codes: torch.Tensor) -> None:
    decoder = codec.slot_decoder(2)
    decoder.step(codes[:2], [1, 0])
    decoder.reset(1)
    assert torch.equal(decoder.step(codes[[2]], [1]), codec.decode(codes[[2]]))
    # The other went on where it was.
    both = codec.decode(torch.cat([codes[[1]], codes[[3]]], dim=2))
    assert torch.equal(decoder.step(codes[[3]], [0]), both[..., both.shape[2] // 2 :])


def test_slots_that_are_not_there_are_refused_and_nothing_moves(codec: AudioCodec, codes: torch.Tensor) -> None:
    decoder = codec.slot_decoder(2)
    with pytest.raises(InputError, match="slot 2 is none of the decoder's; it has 0 to 1"):
        decoder.step(codes[:2], [0, 2])
    with pytest.raises(InputError, match="one is named twice"):
        decoder.step(codes[:2], [1, 1])
    with pytest.raises(InputError, match="codes of 2 streams for 1 slots"):
        decoder.step(codes[:2], [0])
    with pytest.raises(InputError, match="slot -1"):
        decoder.reset(-1)
    with pytest.raises(InputError, match=rf"code {codec.codebook_size} "):
        decoder.step(torch.full_like(codes[:2], codec.codebook_size), [0, 1])
    with pytest.raises(InputError, match="one stream or more"):
        codec.slot_decoder(0)
    assert torch.equal(decoder.step(codes[:2], [0, 1]), codec.decode(codes[:2]))


def test_what_is_trained_is_heard_by_new_decoders_alone() -> None:
    torch.manual_seed(0)
    codec = RvqCodec(RvqConfig.debug()).eval()
    codes = torch.randint(32, (1, 4, 2), generator=torch.Generator().manual_seed(1))
    before, old = codec.decode(codes), codec.slot_decoder(1)
    assert torch.equal(codec.decode(codes), before)
    with torch.no_grad():
        codec.decoder.fine.blocks[0].depthwise.weight.mul_(3)  # type: ignore[operator, union-attr]
        codec.decoder.source.norm.weight.mul_(2)
    assert not torch.equal(codec.decode(codes), before)
    assert torch.equal(old.step(codes, [0]), before)


def test_a_frame_elsewhere_than_on_a_cpu_never_looks_at_numbers() -> None:
    """On the meta device, which has none, as on a GPU neither the loops nor oneDNN's products are there."""
    meta = torch.device("meta")
    rows = rows_of([2, 0], 2, 3, meta)
    rvq = RvqCodec(RvqConfig.debug()).to(meta).slot_decoder(3)
    assert rvq._frame(torch.empty(2, 1, 8, device=meta), rows).shape == (2, 1920)
    model = MimiCodec.random(0, num_codebooks=4)._model
    weights = {name: tensor.to(meta) for name, tensor in model.state_dict().items()}
    decoder = MimiDecoder(weights, torch.empty(4, 2048, 256, device=meta), MimiShape())
    mimi = MimiSlotDecoder(decoder, 3, lambda codes: None)
    assert mimi.step(torch.zeros(2, 4, 3, dtype=torch.int64, device=meta), [2, 0]).shape == (2, 1, 3 * 1920)
