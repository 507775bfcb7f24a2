"""Trains an `RvqCodec` from the training split of one or more corpora, and goes on where a killed training stopped.

A codec needs no texts: folders of nothing but sound add to the voices that it hears.

OUT/conversations/N/          the corpora, ingested
OUT/joint/, OUT/decoder/      checkpoints and metrics of the stages
OUT/codec.json, OUT/codec.safetensors    the trained codec: OUT is the folder that tokenise takes
OUT/made.json                 written last: figures, settings, digests
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from csm_components import made
from csm_components.ingest.audio import read_mono, to_pcm
from csm_components.ingest.conversations import read_conversations
from csm_components.ingest.layouts import find_sounds
from csm_components.ingest.step import ingest
from csm_components.tree_list import MADE
from csm_model.codec import RvqCodec, RvqConfig
from csm_model.codec.training import Clip, CodecTrainer, CodecTraining
from csm_model.errors import InputError
from csm_model.files import digest_of, digest_of_file
from csm_model.frames import SAMPLE_RATE
from csm_model.text import PhonemeTokenizer

SIZES = {"demo": RvqConfig(voicing=True), "debug": replace(RvqConfig.debug(), voicing=True)}
STAGES = {"joint": ("joint",), "decoder": ("decoder",), "both": ("joint", "decoder")}
_JOINT_SHARE = 0.5  # of the minutes, where both stages are asked for
_SAY_EVERY_SECONDS = 20.0
# Settled by trial on two cores; docs/demo.md says what was tried.
RECIPES: Mapping[str, CodecTraining] = {
    "joint": CodecTraining(stage="joint", batch_seconds=16.0, learning_rate=8e-4),
    "decoder": CodecTraining(stage="decoder", batch_seconds=8.0, learning_rate=5e-4),
}


@dataclass(frozen=True, kw_only=True)
class CodecResult:
    """What training a codec came to; JSON-able."""

    out: str
    """Folder of the codec."""
    digest: str
    """Of the codec."""
    dataset_digest: str
    """Of the ingested corpora, and of the sounds without texts."""
    clips: int
    hours: float
    """Of speech in the training split."""
    minutes: float
    """Spent training, over all runs."""
    steps: int
    losses: dict[str, float]
    """The last line of the last stage's metrics."""
    reused: bool


def load_clips(conversations: Path) -> list[Clip]:
    """Every training turn with its phonemes; a text that cannot be pronounced leaves them empty."""
    tokenizer, clips = PhonemeTokenizer(), []
    for conversation in read_conversations(conversations, split="train"):
        for turn, audio in zip(conversation.turns, conversation.turn_audios(), strict=True):
            try:
                phonemes = tokenizer.phonemes(turn.text)
            except InputError:
                phonemes = []
            clips.append(Clip(audio=np.round(audio * 32767).astype(np.int16), phonemes=phonemes))
    return clips


def sound_files(folder: Path) -> list[Path]:
    """Every sound file under a folder, in a fixed order.

    Raises:
        InputError: there is none.
    """
    names = find_sounds(folder)
    if not names:
        raise InputError(f"{folder}: holds no sound files; check the path")
    return [folder / name for name in names]


def load_sounds(files: Sequence[Path]) -> list[Clip]:
    """Every file whole, without phonemes."""
    return [Clip(audio=to_pcm(read_mono(path)), phonemes=[]) for path in files]


def plan(minutes: float, stage: str, *, seed: int, max_steps: int | None = None) -> list[CodecTraining]:
    """The stages to train, each with its share of the minutes."""
    if stage not in STAGES:
        raise InputError(f"stage {stage!r}: there are {', '.join(STAGES)}")
    shares = {"joint": _JOINT_SHARE, "decoder": 1 - _JOINT_SHARE} if stage == "both" else {stage: 1.0}
    return [
        CodecTraining(
            **{**asdict(RECIPES[name]), "minutes": minutes * shares[name], "seed": seed, "max_steps": max_steps}
        )
        for name in STAGES[stage]
    ]


def train_codec(
    corpora: Sequence[Path],
    out: Path,
    *,
    minutes: float,
    sounds: Sequence[Path] = (),
    stage: str = "both",
    start: Path | None = None,
    sizes: str = "demo",
    codebooks: int | None = None,
    seed: int = 0,
    max_steps: int | None = None,
    say: Callable[[str], None] = print,
) -> CodecResult:
    """Trains a codec for `minutes`, or for `max_steps` a stage if they are done first; `say` gets a line now and then.

    `codebooks` is how many, should it not be as many as `sizes` has or the codec begun from; further ones are fitted to
    what the others leave over, before training begins. A corpus, or folder of `sounds`, that is named twice counts
    twice.

    Raises:
        InputError: no such corpus, sizes or codebooks, no training turns, a decoder stage without a codec to begin
            from, or a folder that holds a codec of other data or settings.
    """
    if sizes not in SIZES:
        raise InputError(f"sizes {sizes!r}: there are {', '.join(SIZES)}")
    stages = plan(minutes, stage, seed=seed, max_steps=max_steps)
    if stage == "decoder" and start is None:
        raise InputError("the decoder stage needs a codec to begin from: name its folder")
    if codebooks is not None and codebooks < 1:
        raise InputError(f"{codebooks} codebooks: a codec has at least one")
    config = SIZES[sizes]
    codec = RvqCodec.load(start).with_voicing() if start is not None else None
    if codebooks is not None:
        config = replace(config, num_codebooks=codebooks)
        if codec is not None:
            codec = codec.with_codebooks(codebooks)
    folders = {corpus: out / "conversations" / str(number) for number, corpus in enumerate(dict.fromkeys(corpora))}
    digests = {corpus: ingest(corpus, folder).digest for corpus, folder in folders.items()}
    files = {folder: sound_files(folder) for folder in dict.fromkeys(sounds)}
    named = {
        folder: digest_of([[str(path.relative_to(folder)), digest_of_file(path)] for path in paths])
        for folder, paths in files.items()
    }
    dataset = digest_of([digests[corpus] for corpus in corpora] + [named[folder] for folder in sounds])
    begun = codec.digest if codec is not None else None
    inputs = digest_of([dataset, asdict(config), begun, [asdict(each) for each in stages]])
    if (known := made.noted(out / MADE)) is not None:
        if known.key != inputs:
            raise InputError(f"{out}: holds a codec of other data or settings; name another folder")
        return CodecResult(**known.reused().result)
    turns = {corpus: load_clips(folder) for corpus, folder in folders.items()}
    clips = [clip for corpus in corpora for clip in turns[corpus]]
    heard = {folder: load_sounds(paths) for folder, paths in files.items()}
    clips += [clip for folder in sounds for clip in heard[folder]]
    trainers = []
    for each in stages:
        trainer = CodecTrainer(clips, each, out / each.stage, codec=codec, sizes=config)
        trainers.append(trainer)
        codec = trainer.run(_narrator(say))
    assert codec is not None
    codec.save(out)
    lines = (out / stages[-1].stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    result = CodecResult(
        out=str(out),
        digest=codec.digest,
        dataset_digest=dataset,
        clips=len(clips),
        hours=sum(len(clip.audio) for clip in clips) / SAMPLE_RATE / 3600,
        minutes=sum(trainer.seconds for trainer in trainers) / 60,
        steps=sum(trainer.step for trainer in trainers),
        losses=json.loads(lines[-1]) if lines else {},
        reused=False,
    )
    made.commit(out, "codec", inputs, result)
    return result


def _narrator(say: Callable[[str], None]) -> Callable[[str, float, dict[str, float]], None]:
    """A progress callback that speaks every few seconds of training."""
    spoken = -_SAY_EVERY_SECONDS

    def narrate(stage: str, done: float, losses: dict[str, float]) -> None:
        nonlocal spoken
        if losses["seconds"] - spoken >= _SAY_EVERY_SECONDS:
            spoken = losses["seconds"]
            figures = "  ".join(
                f"{name} {value:.3f}" for name, value in losses.items() if name not in ("step", "seconds")
            )
            say(f"{stage} {done:4.0%}  step {losses['step']}  {figures}")

    return narrate
