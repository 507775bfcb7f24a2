"""A server's settings to the engine that serves by them."""

from __future__ import annotations

import logging

from csm_model.bundle import load_bundle
from csm_model.errors import InputError
from csm_model.inference.batch import SpeechBatch
from csm_model.inference.scheduler import Policy
from csm_model.verdict import check_int4
from csm_serving.engine import Engine
from csm_serving.metrics import Metrics
from csm_serving.settings import ServingSettings
from csm_serving.source import RequestReader
from csm_serving.tokens import TurnKey
from csm_serving.voices import VoiceRegistry

log = logging.getLogger(__name__)


def load_engine(settings: ServingSettings, metrics: Metrics) -> Engine:
    """An engine that has spoken once.

    Raises:
        CsmError: a setting, the bundle, its codec, the registry of voices or the watermark is not to be used.
    """
    if settings.bundle is None:
        raise InputError("CSM_SERVING_BUNDLE is not set; it names the folder of the bundle to serve")
    key = TurnKey.from_hex(settings.turn_key)
    if said := check_int4(settings.bundle, settings.weights, allow=settings.ungated_int4):
        log.warning("%s", said)
    bundle = load_bundle(settings.bundle, codec_folder=settings.codec, weights=settings.weights)
    voices = VoiceRegistry.load(settings.voices, speakers=bundle.speakers)
    for refused in voices.prepare(bundle.codec):
        log.warning("%s", refused)
    batch = SpeechBatch(bundle, slots=settings.slots, prefill_rows=settings.prefill_rows)
    reader = RequestReader(
        bundle, voices=voices, key=key, client_voices=settings.client_voices, max_frames=settings.max_frames
    )
    policy = Policy(
        queue=settings.queue,
        frame_budget=settings.frame_budget,
        lead_s=settings.lead_s,
        text_timeout_s=settings.text_timeout_s,
    )
    engine = Engine(
        batch,
        reader,
        policy=policy,
        metrics=metrics,
        max_characters=settings.max_stream_characters,
        max_wait_s=settings.max_wait_s,
    )
    engine.warm_up()
    log.info("serving %s in %d slots; %s", settings.bundle, settings.slots, engine.times)
    return engine
