"""A server's settings to the engine that serves by them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from csm_model.bundle import load_bundle
from csm_model.errors import InputError
from csm_model.files import read_json
from csm_model.inference.batch import PREFIX_BYTES, SpeechBatch
from csm_model.inference.decoding import KeptRows, Prompt
from csm_model.inference.jobs import SchedulerPolicy
from csm_model.inference.prefixes import PrefixCache
from csm_model.manifest import speakers_in
from csm_model.verdict import check_int4
from csm_model.watermark import SlotMarker, open_watermark
from csm_serving.server import metrics as names
from csm_serving.server.audit import open_audit
from csm_serving.server.callers import Callers
from csm_serving.server.engine import Engine, Watchers
from csm_serving.server.metrics import Metrics
from csm_serving.server.safeguards import warnings_of
from csm_serving.server.source import RequestReader
from csm_serving.server.tokens import TurnKey
from csm_serving.server.voices import VoiceRegistry
from csm_serving.settings import ServingSettings

_READERS: Final = 4
"""Threads at most that encode sound of requests; each takes a core."""

NOBODY: Final = Watchers()

log = logging.getLogger(__name__)


def load_engine(settings: ServingSettings, metrics: Metrics, watchers: Watchers = NOBODY) -> Engine:
    """An engine that has spoken once.

    Args:
        settings: what to serve, and how.
        metrics: where measurements go.
        watchers: who looks on; the audit does in any case.

    Raises:
        CsmError: a setting, the bundle, its codec, the registry of voices or the watermark is not to be used.
    """
    if settings.bundle is None:
        raise InputError("CSM_SERVING_BUNDLE is not set; it names the folder of the bundle to serve")
    key = TurnKey.from_hex(settings.turn_key)
    if said := check_int4(settings.bundle, settings.weights, allow=settings.ungated_int4):
        log.warning("%s", said)
    bundle = load_bundle(settings.bundle, codec_folder=settings.codec, weights=settings.weights)
    voices = VoiceRegistry.load(settings.voices, speakers=bundle.speakers, use=settings.voice_use)
    for refused in voices.prepare(bundle.codec):
        log.warning("%s", refused)
    watermark = open_watermark(settings.watermark, key=settings.watermark_key)
    audit = open_audit(
        settings.audit,
        model=bundle.manifest["digest"],
        watermark="off" if watermark is None else watermark.kind,
        required=settings.audit_required,
    )
    for warning in warnings_of(settings):
        log.warning("%s", warning)
    marker = None if watermark is None else _Counted(watermark.slot_marker(settings.slots), metrics)
    batch = SpeechBatch(
        bundle,
        slots=settings.slots,
        prefill_rows=settings.prefill_rows,
        marker=marker,
        prefixes=_CountedPrefixes(metrics),
    )
    reader = RequestReader(
        bundle, voices=voices, key=key, client_voices=settings.client_voices, max_frames=settings.max_frames
    )
    policy = SchedulerPolicy(
        queue=settings.queue,
        frame_budget=settings.frame_budget,
        lead_s=settings.lead_s or None,
        text_timeout_s=settings.text_timeout_s,
    )
    engine = Engine(
        batch,
        reader,
        policy=policy,
        metrics=metrics,
        watchers=replace(watchers, may_begin=audit.may_begin, over=audit.over),
        max_characters=settings.max_stream_characters,
        max_wait_s=settings.max_wait_s,
        readers=max(1, min(_READERS, len(os.sched_getaffinity(0)) - torch.get_num_threads())),
    )
    engine.warm_up()
    log.info("serving %s in %d slots; %s", settings.bundle, settings.slots, engine.times)
    return engine


def load_callers(settings: ServingSettings) -> Callers | None:
    """Who may call; None where anybody may.

    Raises:
        InputError: there is no such file.
        ArtifactError: it is damaged.
    """
    if settings.token_file is None or settings.bundle is None:
        return None
    return Callers(settings.token_file, speakers=speakers_in(read_json(settings.bundle / "manifest.json")))


class _Counted:
    """A marker whose failures are counted: sound that cannot be marked is not sent."""

    def __init__(self, marker: SlotMarker, metrics: Metrics) -> None:
        self._marker = marker
        self._metrics = metrics
        self.reset = marker.reset

    def step(self, audio: Tensor, slots: Sequence[int]) -> Tensor:
        """See `SlotMarker`."""
        try:
            return self._marker.step(audio, slots)
        except Exception:
            self._metrics.add(names.WATERMARK_FAILURES)
            raise


class _CountedPrefixes(PrefixCache):
    """Counts how often a voice prompt was there."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(PREFIX_BYTES)
        self._metrics = metrics

    def get(self, prompt: Prompt) -> KeptRows | None:
        """See `PrefixCache`."""
        rows = super().get(prompt)
        self._metrics.add(names.PREFIX_MISSES if rows is None else names.PREFIX_HITS)
        return rows
