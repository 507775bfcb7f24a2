"""Greedy codes are those of transformers: alone and batched, after text, and after a turn of text and sound."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from csm_model.inference.decoding import FrameDecoder, Prompt
from csm_model.inference.prompt import audio_rows, text_rows
from csm_model.inference.sampling import Sampling
from csm_model.model import CsmModel

FRAMES = 72
GREEDY = Sampling(temperature=0.0, depth_temperature=0.0)
PLACEHOLDER, AUDIO_END, NO_PLACEHOLDER = 198, 199, 0


class Sides(NamedTuple):
    hf: Any
    model: CsmModel


@pytest.fixture(scope="module")
def sides(twins: Any) -> Sides:
    """The twins, whose reserved codes can win no more: this program bans them, transformers does not."""
    hf, model = copy.deepcopy(twins.hf), copy.deepcopy(twins.model)
    size = model.config.codebook_size
    with torch.no_grad():
        for head in (hf.lm_head.weight[size:], model.codebook0_head.weight[size:]):
            head.zero_()
        for heads in (hf.depth_decoder.codebooks_head.weight, model.audio_head):
            heads[..., size:].zero_()
    return Sides(hf, model)


class Turn(NamedTuple):
    """What comes before the text that is to be spoken, if anything."""

    text: list[int]
    sound: Tensor | None = None  # [S], whole frames


def words(seed: int, count: int) -> list[int]:
    return torch.randint(1, 190, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def sound(seed: int, frames: int) -> Tensor:
    return 0.3 * torch.randn(1920 * frames, generator=torch.Generator().manual_seed(seed))


def codes_of(hf: Any, audio: Tensor) -> Tensor:
    """Codes `[K, F]` that transformers' own codec gives."""
    return hf.codec_model.encode(audio[None, None]).audio_codes[0]


def by_transformers(hf: Any, dialogues: list[list[Turn]]) -> list[Tensor]:
    """Greedy codes `[F, K]` of each dialogue's last turn; prompts padded on the left, as its processor does."""
    prompts, sounds = [], []
    for turns in dialogues:
        ids: list[int] = []
        for turn in turns:
            ids += turn.text
            if turn.sound is not None:
                ids += [PLACEHOLDER] * (len(turn.sound) // 1920) + [AUDIO_END]
                sounds.append(turn.sound)
        prompts.append(ids)
    longest = max(map(len, prompts))
    inputs: dict[str, Tensor] = {
        "input_ids": torch.tensor([[NO_PLACEHOLDER] * (longest - len(ids)) + ids for ids in prompts]),
        "attention_mask": torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]),
    }
    if sounds:
        inputs["input_values"] = torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True)[:, None]
        inputs["input_values_cutoffs"] = torch.tensor([[len(each)] for each in sounds])
    out = hf.generate(
        **inputs, max_new_tokens=FRAMES, do_sample=False, depth_decoder_do_sample=False, temperature=None, top_k=None,
        depth_decoder_temperature=None, depth_decoder_top_k=None,
    )  # fmt: skip
    return list(out)


def by_us(sides: Sides, dialogues: list[list[Turn]]) -> list[Tensor]:
    """The same from the decoding core, a slot each."""
    config = sides.model.config
    prompts = []
    for turns in dialogues:
        parts = []
        for turn in turns:
            parts.append(text_rows(turn.text, config))
            if turn.sound is not None:
                parts.append(audio_rows(codes_of(sides.hf, turn.sound), config, close=True))
        prompts.append(Prompt(*(torch.cat(part) for part in zip(*parts, strict=True))))
    longest = max(len(prompt.rows) for prompt in prompts)
    slots = list(range(len(prompts)))
    decoder = FrameDecoder(sides.model, slots=len(slots), rows=longest + FRAMES)
    for slot, prompt in zip(slots, prompts, strict=True):
        decoder.begin(slot, GREEDY)
        decoder.read(slot, prompt)
    frames = []
    for _ in range(FRAMES):
        frame = decoder.draw(slots, [True] * len(slots))
        frames.append(frame.codes)
        decoder.feed(slots, frame.codes)
    return list(torch.stack(frames, dim=1))


TEXT_ONLY = [[Turn(words(1, 12))], [Turn(words(2, 5))], [Turn(words(3, 23))]]
AFTER_SOUND = [
    [Turn(words(4, 7), sound(0, 9)), Turn(words(5, 11))],
    [Turn(words(6, 13), sound(1, 4)), Turn(words(7, 6))],
]


@pytest.mark.parametrize("dialogue", [TEXT_ONLY[0], AFTER_SOUND[0]], ids=["text", "text and sound"])
def test_alone(sides: Sides, dialogue: list[Turn]) -> None:
    ours, theirs = by_us(sides, [dialogue])[0], by_transformers(sides.hf, [dialogue])[0]
    assert torch.equal(ours, theirs)
    assert len({tuple(frame.tolist()) for frame in ours}) > 8, "standing still would prove little"


@pytest.mark.parametrize("dialogues", [TEXT_ONLY, AFTER_SOUND], ids=["text", "text and sound"])
def test_batched_with_different_lengths(sides: Sides, dialogues: list[list[Turn]]) -> None:
    batched = by_us(sides, dialogues)
    for ours, theirs in zip(batched, by_transformers(sides.hf, dialogues), strict=True):
        assert torch.equal(ours, theirs)
    for ours, dialogue in zip(batched, dialogues, strict=True):
        assert torch.equal(ours, by_us(sides, [dialogue])[0]), "neighbours must not matter"
