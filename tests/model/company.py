"""Streams alone and in company of every number up to 64, on 1 and 2 threads: who differs by a bit.

A program of its own, for the processor's instructions are chosen before the first kernel is compiled.

    python tests/model/company.py        prints {subject: [what differs, ...]} as JSON
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from csm_model.codec import AudioCodec, RvqCodec, RvqConfig, SlotDecoder
from csm_model.codec.mimi import MimiCodec
from csm_model.codec.mimi_decoder import MimiDecoder, MimiShape, MimiSlotDecoder
from csm_model.codec.slots import SlotStream
from csm_model.config import demo_config
from csm_model.inference.decoding import FrameDecoder, Prompt
from csm_model.inference.sampling import Sampling
from csm_model.kernels import use_kernels
from csm_model.kernels.machine import this_machine
from csm_model.kernels.products import Kind
from csm_model.model import CsmModel
from csm_model.quantize import rounded_state, with_rounded_weights
from csm_model.watermark import open_watermark

MOST = 64
FRAMES = 2
THREADS = (1, 2)
KINDS: tuple[Kind, ...] = ("fp32", "bf16", "int8", "int4")
WHOLE = (1, 2, 3, 4, 5, 8, 64)
PROMPT_ROWS = 5


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def codec_streams(make: Callable[[int], SlotDecoder], codes: Tensor, *, counts: tuple[int, ...] = THREADS) -> list[str]:
    """Frame by frame in company of all numbers, and whole where several frames go together, against each stream alone.

    On more than one thread, the first frame.
    """
    with threads(1):
        alone = make(MOST)
        sounds = []
        for stream, one in enumerate(codes.split(1)):
            parts = [alone.step(frame, [MOST - 1 - stream]) for frame in one.split(1, dim=2)]
            sounds.append(torch.cat(parts, dim=2))
    expected, wrong = torch.cat(sounds), []
    for count in counts:
        with threads(count):
            for number in range(1, MOST + 1):
                decoder, chosen = make(number), codes[:number]
                # Slots that do not follow one another, for all but the smallest.
                slots = [*range(0, number, 2), *range(1, number, 2)]
                frames = chosen.split(1, dim=2)[: FRAMES if count == 1 else 1]
                sound = torch.cat([decoder.step(frame, slots) for frame in frames], dim=2)
                if not torch.equal(sound, expected[:number, :, : sound.shape[2]]):
                    wrong.append(f"{number} streams, {count} threads")
                if (
                    number in WHOLE
                    and codes.shape[2] > 1
                    and not torch.equal(SlotStream(make(number)).step(chosen), expected[:number])
                ):
                    wrong.append(f"{number} streams, whole, {count} threads")
    return wrong


def rvq() -> list[str]:
    """The demo's codec, with random weights."""
    torch.manual_seed(0)
    codec = RvqCodec(RvqConfig()).eval().requires_grad_(False)
    return codec_streams(codec.slot_decoder, random_codes(codec))


def random_codes(codec: AudioCodec) -> Tensor:
    size = (MOST, codec.num_codebooks, FRAMES)
    return torch.randint(codec.codebook_size, size, generator=torch.Generator().manual_seed(1))


def mimi() -> list[str]:
    """Mimi's true sizes, a frame; each stream on one thread, company on two."""
    codec = MimiCodec.random(0, num_codebooks=8)
    return codec_streams(codec.slot_decoder, random_codes(codec)[..., :1], counts=(2,))


def narrow_mimi() -> list[str]:
    """Mimi with a quarter of its channels, frame by frame and whole."""
    codec = MimiCodec.random(0, num_codebooks=8)
    narrow = {name: part.contiguous() for name, part in quarters(codec._model.state_dict())}
    table = torch.randn(8, codec.codebook_size, 64, generator=torch.Generator().manual_seed(2))
    decoder = MimiDecoder(narrow, table, MimiShape())
    return codec_streams(lambda slots: MimiSlotDecoder(decoder, slots, lambda codes: None), random_codes(codec))


def quarters(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """A quarter of every axis of channels; twice as large, since a sum of a quarter is half as large."""
    for name, weight in weights.items():
        if name.startswith(("decoder", "upsample", "quantizer")) and weight.ndim:
            part = weight[tuple(slice(size // 4 if size >= 64 else size) for size in weight.shape[:2])]
            yield name, part * 2 if part.ndim > 1 else part


def generation(kind: Kind) -> list[str]:
    """Codes of frames that a small model draws: each number of streams goes on from the prompts that were read."""
    torch.manual_seed(0)
    model = CsmModel(demo_config(text_vocab_size=40, num_codebooks=4, codebook_size=61)).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.mul_(4.0 if weight.dim() > 1 else 1.0)
    if kind in ("int8", "int4"):
        model = use_kernels(with_rounded_weights(model, rounded_state(model, kind)))
    else:
        model = use_kernels(model.bfloat16() if kind == "bf16" else model)
    decoder = FrameDecoder(model, slots=MOST, rows=12, entries=torch.randn(4, 61, 8))
    for stream in range(MOST):
        decoder.begin(stream, sampling_of(stream))
        decoder.read(stream, prompt_of(stream, model.config.num_codebooks))
    state = decoder._state.clone()

    def drawn(slots: range) -> Tensor:
        """Codes `[streams, frames, K]`."""
        decoder._state.copy_(state)
        frames = []
        for slot in slots:
            decoder.begin(slot, sampling_of(slot), keep=PROMPT_ROWS)
        for _ in range(FRAMES):
            frames.append(decoder.draw(slots, [False] * len(slots)).codes)
            decoder.feed(slots, frames[-1])
        return torch.stack(frames, dim=1)

    with threads(1):
        expected = torch.cat([drawn(range(stream, stream + 1)) for stream in range(MOST)])
    wrong = [] if len(expected.unique()) > 50 else ["all draw alike"]
    for count in THREADS:
        with threads(count):
            for number in range(1, MOST + 1):
                begin = (MOST - number) // 2  # so that a stream is now here, now there among the others
                if not torch.equal(drawn(range(begin, begin + number)), expected[begin : begin + number]):
                    wrong.append(f"{number} streams, {count} threads")
    return wrong


def sampling_of(stream: int) -> Sampling:
    """Guidance of some, so that the backbone reads more sequences than there are streams; the depth of fewer."""
    guided = {"guidance": 2.0, "depth_guidance": 1.0 + stream % 2} if stream % 5 == 0 else {}
    return Sampling(seed=stream, top_k=0, depth_mean=stream % 3, **guided)


def prompt_of(stream: int, books: int) -> Prompt:
    rows = torch.zeros(PROMPT_ROWS, books + 1, dtype=torch.long)
    rows[:, -1] = (torch.arange(PROMPT_ROWS) * 7 + stream) % 40
    mask = torch.zeros_like(rows, dtype=torch.bool)
    mask[:, -1] = True
    return Prompt(rows, mask)


def watermark() -> list[str]:
    """Marked sound."""
    mark = open_watermark("perth:7")
    assert mark is not None
    sound = 0.1 * torch.randn(MOST, FRAMES, 1920, generator=torch.Generator().manual_seed(3))
    with threads(1):
        expected = torch.stack([mark.mark(one.flatten()) for one in sound])
    wrong = []
    for count in THREADS:
        with threads(count):
            for number in range(1, MOST + 1):
                marker = mark.slot_marker(number)
                parts = [marker.step(sound[:number, frame], range(number)) for frame in range(FRAMES)]
                if not torch.equal(torch.cat(parts, dim=1), expected[:number]):
                    wrong.append(f"{number} streams, {count} threads")
    return wrong


def main() -> None:
    torch.set_num_threads(max(THREADS))  # before the kernels' threads are counted
    found: dict[str, object] = {"machine": this_machine().name, "wide": this_machine().wide}
    with torch.inference_mode():
        for subject in (rvq, mimi, narrow_mimi, watermark):
            found[subject.__name__] = subject()
        for kind in KINDS:
            found[f"generation_{kind}"] = generation(kind)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
