"""Trains an `RvqCodec` from clips of speech with their phonemes, and goes on where a killed run stopped.

Two stages. `joint` trains all of it by spectral distances, pitch and voicing, commitment, a CTC loss that makes the
first codebook carry the phonemes, and by pitch and voicing once more, as they are read from the first two codebooks
alone. `decoder` keeps the encoder and the codebooks as they are, so that codes made before stay good, and trains the
decoder, after a while against discriminators. Either fits codebooks that are empty yet before it begins.

Shapes: B batch, T frames, S samples.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_model.codec.discriminator import Discriminators, discriminator_loss, generator_losses
from csm_model.codec.losses import SpectralLoss
from csm_model.codec.pitch import in_range, middle_pitch, track_pitch
from csm_model.codec.rvq import RvqCodec
from csm_model.codec.rvq_network import STEPS, RvqConfig
from csm_model.codec.source import DELAY, MIDDLE_LOG_PITCH
from csm_model.errors import CheckpointError, InputError, shown
from csm_model.files import atomic_path
from csm_model.frames import FRAME_SAMPLES, SAMPLE_RATE, frames_of
from csm_model.rules import check_fields
from csm_model.tensor_files import load_pickle
from csm_model.training.guards import CURE, DivergedError

CTC_STEPS = 4  # label positions a frame: 50 a second, more than anyone speaks phonemes
CROP_FRAMES = 10  # the discriminators judge crops of 0.8 s
MOVED = 0.22  # octaves by which a clip's pitch may be moved
FITTED_FRAMES = 50_000  # frames to which empty codebooks are fitted
LOW_PITCH = 150.0  # Hz; a clip whose middle pitch is below it is of a low voice


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One turn: `audio` int16 `[S]` at 24 kHz, `phonemes` the ids of its text (empty where there is none)."""

    audio: npt.NDArray[np.int16]
    phonemes: list[int]


class SoundTarget(NamedTuple):
    """The pitch that is to be learnt."""

    pitch: Tensor  # [B, L], Hz
    voiced: Tensor  # [B, L]
    sure: Tensor  # [B, L], where it is voiced and the pitch no octave off

    @classmethod
    def of(cls, audio: Tensor) -> SoundTarget:
        """Of sound `[B, S]`."""
        pitch, voiced = track_pitch(audio)
        return cls(pitch, voiced, in_range(pitch, voiced))

    def pitch_distance(self, log_pitch: Tensor) -> Tensor:
        """Mean distance of the log of a pitch `[B, L]`, where it is sure."""
        return ((log_pitch - self.pitch.log()).abs() * self.sure).sum() / self.sure.sum().clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class CodecTraining:
    """One stage of training."""

    stage: Literal["joint", "decoder"] = "joint"
    """`joint`: everything; `decoder`: the decoder alone, adversarially."""
    minutes: float = 20.0
    """Time to train for, over all the runs that it took; the learning rate falls to zero towards its end."""
    max_steps: int | None = None
    """Stop after so many steps, should they be done before the minutes are used up."""
    log_every: int = 10
    """Steps between lines of `metrics.jsonl`."""
    batch_seconds: float = 16.0
    """Seconds of sound in a batch."""
    learning_rate: float = 6e-4
    """Peak learning rate of AdamW."""
    discriminator_rate: float = 3e-4
    """Learning rate of the discriminators."""
    quantizer_dropout: float = 0.3
    """Share of clips that use a random smaller number of codebooks."""
    stft_weight: float = 0.5
    """Weight of the STFT distance beside the mel distance."""
    commitment_weight: float = 0.25
    """Weight of the pull of latents to their codes."""
    pitch_weight: float = 3.0
    """Weight of the distance of the log pitch where the sound is voiced."""
    voicing_weight: float = 0.5
    """Weight of the cross-entropy of where there is a voice."""
    early_weight: float = 0.3
    """Weight of pitch and voicing as they are read from the first two codebooks alone, in the `joint` stage."""
    low_share: float = 0.5
    """Share of the clips of a batch that are of low voices (below 150 Hz), where there are any."""
    moved_share: float = 0.3
    """Share of clips that are played slower or faster, by up to a sixth: other voices."""
    phoneme_weight: float = 0.3
    """Weight of the CTC loss of the first codebook."""
    feature_weight: float = 0.5
    """Weight of feature matching in the `decoder` stage."""
    adversarial_weight: float = 0.25
    """Weight of the adversarial loss in the `decoder` stage."""
    judged_from: float = 0.2
    """Share of the `decoder` stage after which the discriminators join in; a step costs twice as much with them."""
    seed: int = 0
    """Of the batches and the weights."""
    checkpoint_seconds: float = 60.0
    """Between checkpoints."""
    vocab_size: int = 160
    """Phoneme ids run below this."""

    def __post_init__(self) -> None:
        check_fields(self)


class CodecTrainer:
    """Holds all that changes in training; `run` ends when the minutes are used up."""

    def __init__(
        self,
        clips: Sequence[Clip],
        config: CodecTraining,
        out: Path,
        *,
        codec: RvqCodec | None = None,
        sizes: RvqConfig,
    ) -> None:
        if not clips:
            raise InputError("there are no clips to train the codec from: give a corpus with at least one turn")
        torch.manual_seed(config.seed)
        self.clips, self.config, self.out = clips, config, out
        pitches = {id(clip): middle_pitch(clip.audio) for clip in {id(clip): clip for clip in clips}.values()}
        low = [pitches[id(clip)] < LOW_PITCH for clip in clips]
        self.voices = [group for group in (np.flatnonzero(low), np.flatnonzero(np.logical_not(low))) if len(group)]
        self.begun = codec is not None
        self.codec = (codec or RvqCodec(sizes)).train().requires_grad_(True)
        self.phoneme_head = nn.Linear(self.codec.config.latent_dim, CTC_STEPS * (config.vocab_size + 1))
        self.pitch_head = nn.Linear(self.codec.config.latent_dim, 2 * STEPS)
        self.spectral = SpectralLoss()
        self.discriminators = Discriminators()
        trained: list[nn.Parameter]
        if config.stage == "joint":
            heads = (*self.phoneme_head.parameters(), *self.pitch_head.parameters())
            trained = [*self.codec.parameters(), *heads]
        else:
            self.codec.encoder.requires_grad_(False)
            trained = list(self.codec.decoder.parameters())
        self.optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, betas=(0.8, 0.98), weight_decay=0.01)
        self.judge_optimizer = torch.optim.AdamW(
            self.discriminators.parameters(), lr=config.discriminator_rate, betas=(0.8, 0.98)
        )
        self.step, self.seconds = 0, 0.0
        self._resume()

    # -- state -----------------------------------------------------------------------------------

    def _modules(self) -> dict[str, Any]:
        """What the stage trains, and by what."""
        always = {"codec": self.codec, "optimizer": self.optimizer}
        if self.config.stage == "joint":
            return {**always, "phoneme_head": self.phoneme_head, "pitch_head": self.pitch_head}
        return {**always, "discriminators": self.discriminators, "judge_optimizer": self.judge_optimizer}

    def _save(self) -> None:
        state = {name: module.state_dict() for name, module in self._modules().items()}
        quantizer = {"counts": self.codec.quantizer.counts, "sums": self.codec.quantizer.sums}
        with atomic_path(self.out / "training.pt") as partial:
            torch.save({**state, "quantizer": quantizer, "step": self.step, "seconds": self.seconds}, partial)
        self.codec.save(self.out)

    def _resume(self) -> None:
        path = self.out / "training.pt"
        if not path.exists():
            return
        state = load_pickle(path)
        try:
            for name, module in self._modules().items():
                module.load_state_dict(state[name])
            self.codec.quantizer.counts.copy_(state["quantizer"]["counts"])
            self.codec.quantizer.sums.copy_(state["quantizer"]["sums"])
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: not of this training of a codec ({shown(error)}); remove it to begin again, or give another "
                "out folder"
            ) from None

    # -- batches ---------------------------------------------------------------------------------

    def _batch(self) -> tuple[Tensor, Tensor, list[list[int]]]:
        """Clips of about one length: sound `[B, S]`, mask `[B, T]`, phonemes."""
        rng = np.random.default_rng((self.config.seed, self.step))
        anchor = len(self.clips[self._drawn(rng, 1)[0]].audio)
        count = max(2, round(self.config.batch_seconds * SAMPLE_RATE / anchor))
        pool = self._drawn(rng, count * 6)
        chosen = sorted(pool, key=lambda index: abs(len(self.clips[index].audio) - anchor))[:count]
        sounds = [self._moved(self.clips[index].audio / np.float32(32768.0), rng) for index in chosen]
        frames = max(frames_of(len(sound)) for sound in sounds)
        audio = np.zeros((count, frames * FRAME_SAMPLES), np.float32)
        mask = np.zeros((count, frames), bool)
        for row, sound in enumerate(sounds):
            audio[row, : len(sound)] = sound * 10 ** rng.uniform(-0.2, 0.1)
            mask[row, : frames_of(len(sound))] = True
        return torch.from_numpy(audio), torch.from_numpy(mask), [self.clips[index].phonemes for index in chosen]

    def _drawn(self, rng: np.random.Generator, count: int) -> list[int]:
        """Clips, `low_share` of them of low voices."""
        groups = [
            self.voices[int(len(self.voices) > 1 and rng.random() >= self.config.low_share)] for _ in range(count)
        ]
        return [int(group[rng.integers(len(group))]) for group in groups]

    def _moved(self, sound: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Played slower or faster, or as it is: pitch, formants and pace move together."""
        if rng.random() >= self.config.moved_share:
            return sound
        size = round(len(sound) * np.exp2(rng.uniform(-MOVED, MOVED)))
        spectrum = np.fft.rfft(sound)
        moved = np.fft.irfft(spectrum[: size // 2 + 1], n=size) * (size / len(sound))
        result: npt.NDArray[np.float32] = moved.astype(np.float32)
        return result

    def _keep(self, count: int) -> Tensor:
        books = self.codec.num_codebooks
        fewer = torch.randint(1, books + 1, (count,))
        dropped = torch.rand(count) < self.config.quantizer_dropout
        return torch.where(dropped, fewer, torch.full((count,), books))

    # -- losses ----------------------------------------------------------------------------------

    def _phoneme_loss(self, first: Tensor, mask: Tensor, phonemes: list[list[int]]) -> Tensor:
        batch, frames, _ = first.shape
        scores = self.phoneme_head(first).reshape(batch, frames * CTC_STEPS, -1).log_softmax(-1)
        spoken = [index for index, ids in enumerate(phonemes) if ids]
        if not spoken:
            return first.new_zeros(())
        targets = torch.tensor([phoneme + 1 for index in spoken for phoneme in phonemes[index]])
        lengths = torch.tensor([len(phonemes[index]) for index in spoken])
        return F.ctc_loss(
            scores[spoken].transpose(0, 1), targets, mask[spoken].sum(1) * CTC_STEPS, lengths, zero_infinity=True
        )

    def _early_loss(self, first_two: Tensor, target: SoundTarget) -> Tensor:
        """How ill pitch and voicing can be read from the first two codebooks, frame by frame."""
        log_pitch, voicing = self.pitch_head(first_two).unflatten(-1, (STEPS, 2)).flatten(1, 2).unbind(-1)
        return self.config.pitch_weight * target.pitch_distance(
            log_pitch + MIDDLE_LOG_PITCH
        ) + self.config.voicing_weight * F.binary_cross_entropy_with_logits(voicing, target.voiced.float())

    def _reconstruct(
        self, latent: Tensor, audio: Tensor, target: SoundTarget
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What the decoder makes of latents, the weighted sum of its distances to the sound, and each of them.

        On every second step the pulses follow the true pitch: a pulse train that is a little out of tune says nothing
        of how loud its harmonics should be.
        """
        controls = self.codec.decoder.controls(latent)
        tune = target.pitch_distance(controls.pitch.log())
        voicing = controls.pitch.new_zeros(())
        if self.codec.config.voicing:
            assert controls.voicing is not None
            voicing = F.binary_cross_entropy_with_logits(controls.voicing, target.voiced.float())
        if self.step % 2:
            controls = controls._replace(pitch=torch.where(target.sure, target.pitch, controls.pitch))
        made = self.codec.decoder(controls)[:, DELAY:]
        mel, stft = self.spectral(made, audio[:, :-DELAY])
        config = self.config
        total = mel + config.stft_weight * stft + config.pitch_weight * tune + config.voicing_weight * voicing
        return made, total, {"mel": mel, "stft": stft, "pitch": tune, "voicing": voicing}

    def _joint_step(self) -> dict[str, Tensor]:
        audio, mask, phonemes = self._batch()
        quantized = self.codec.quantizer(self.codec.encoder(audio), mask, self._keep(len(audio)))
        target = SoundTarget.of(audio)
        _, total, losses = self._reconstruct(quantized.latent, audio, target)
        phoneme = self._phoneme_loss(quantized.first, mask, phonemes)
        early = self._early_loss(quantized.first_two, target)
        total = total + self.config.commitment_weight * quantized.commitment + self.config.early_weight * early
        self._descend(self.optimizer, total + self.config.phoneme_weight * phoneme)
        used = torch.unique(quantized.codes[:, 0]).numel()
        return {
            **losses,
            "commitment": quantized.commitment,
            "phoneme": phoneme,
            "early": early,
            "codes_used": torch.tensor(float(used)),
        }

    def _decoder_step(self) -> dict[str, Tensor]:
        audio, mask, _ = self._batch()
        with torch.no_grad():
            self.codec.quantizer.eval()
            latent = self.codec.quantizer(self.codec.encoder(audio), mask, self._keep(len(audio))).latent
        made, total, losses = self._reconstruct(latent, audio, SoundTarget.of(audio))
        if self._progress() < self.config.judged_from:
            self._descend(self.optimizer, total)
            return losses
        real = audio[:, :-DELAY]
        size = min(CROP_FRAMES * FRAME_SAMPLES, real.shape[1])
        start = int(torch.randint(0, real.shape[1] - size + 1, ()))
        real_crop, made_crop = real[:, start : start + size], made[:, start : start + size]
        judged_real = self.discriminators(real_crop)
        judge = discriminator_loss(judged_real, self.discriminators(made_crop.detach()))
        self._descend(self.judge_optimizer, judge)
        self.discriminators.requires_grad_(False)
        adversarial, feature = generator_losses(judged_real, self.discriminators(made_crop))
        total = total + self.config.feature_weight * feature
        self._descend(self.optimizer, total + self.config.adversarial_weight * adversarial)
        self.discriminators.requires_grad_(True)
        return {**losses, "judge": judge, "adversarial": adversarial, "feature": feature}

    def _descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """A step down a loss; raises `DivergedError` where the loss or its gradient is no finite number."""
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, 2.0)
        for name, value in (("loss", loss), ("gradient norm", norm)):
            if not torch.isfinite(value):
                raise DivergedError(f"step {self.step + 1} of the codec: the {name} is {float(value.detach())}: {CURE}")
        optimizer.step()

    def _progress(self) -> float:
        """Share of the minutes, or of the steps, that is used up; 1 ends the training."""
        done = self.seconds / (self.config.minutes * 60)
        if self.config.max_steps is not None:
            done = max(done, self.step / self.config.max_steps)
        return min(1.0, done)

    @torch.no_grad()
    def _fit_codebooks(self) -> None:
        """Fits the codebooks that are empty to what the others leave of the encoder's latents of drawn clips."""
        quantizer = self.codec.quantizer
        if (first := quantizer.filled) == self.codec.num_codebooks:
            return
        rng, latents, frames = np.random.default_rng(self.config.seed), [], 0
        while frames < FITTED_FRAMES:
            sound = self._moved(self.clips[self._drawn(rng, 1)[0]].audio / np.float32(32768.0), rng)
            whole = np.zeros((1, frames_of(len(sound)) * FRAME_SAMPLES), np.float32)
            whole[0, : len(sound)] = sound
            latents.append(self.codec.encoder(torch.from_numpy(whole))[0])
            frames += len(latents[-1])
        quantizer.fit(torch.cat(latents), first=first)

    # -- the loop --------------------------------------------------------------------------------

    def run(self, on_progress: Callable[[str, float, dict[str, float]], None] | None = None) -> RvqCodec:
        """Trains until the minutes are used up; writes `metrics.jsonl`, checkpoints, and the codec itself to `out`.

        `on_progress` gets the stage, the share of the minutes that is used up, and the losses, every `log_every` steps.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        if self.step == 0 and self.begun:
            self._fit_codebooks()
            self.codec.quantizer.adopt()
        saved = self.seconds
        advance = self._joint_step if self.config.stage == "joint" else self._decoder_step
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as log:
            while (done := self._progress()) < 1.0:
                began = time.monotonic()
                warm = min(1.0, (self.step + 1) / 100)
                rate = self.config.learning_rate * warm * (0.02 + 0.98 * (1 - done))
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                losses = advance()
                self.step += 1
                self.seconds += time.monotonic() - began
                if self.step % self.config.log_every == 0:
                    row = {name: round(float(value.detach()), 4) for name, value in losses.items()}
                    row = {"step": self.step, "seconds": round(self.seconds, 1), **row}
                    log.write(json.dumps(row) + "\n")
                    log.flush()
                    if on_progress is not None:
                        on_progress(self.config.stage, self._progress(), row)
                if self.seconds - saved > self.config.checkpoint_seconds:
                    self._save()
                    saved = self.seconds
        self._save()
        return self.codec.eval().requires_grad_(False)
