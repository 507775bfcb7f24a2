"""What several commands read from their options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from csm_model.errors import InputError
from csm_pipelines.kfp_client import Trigger

ROLES = ("data", "train")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_CRON_FIELDS = 6
_CRON_FIELD = re.compile(r"^(\*|\?|[\w*?]+([-,/][\w*]+)*)$")


def images_of(options: Iterable[str] | None) -> Mapping[str, str]:
    """Images by role, from `ROLE=IMAGE`; raises `InputError` for anything else."""
    images = {}
    for option in options or ():
        role, equals, image = option.partition("=")
        if role not in ROLES or not equals or not image:
            raise InputError(f"image {option!r}: write it as data=name@sha256:... or train=name@sha256:...")
        images[role] = image
    return images


def trigger_of(cron: str, every: str) -> Trigger:
    """When a recurring run starts; raises `InputError` unless exactly one of the two is given, and well formed."""
    if bool(cron) == bool(every):
        raise InputError("give either --cron, such as '0 0 3 * * *', or --every, such as 12h")
    if cron:
        fields = cron.split()
        if len(fields) != _CRON_FIELDS or not all(_CRON_FIELD.match(field) for field in fields):
            raise InputError(
                f"cron {cron!r}: must be six fields, seconds first: '0 0 3 * * *' is each night at three, UTC"
            )
        return Trigger(cron=cron)
    match = re.fullmatch(r"([1-9]\d*)([smhd])", every)
    if match is None:
        raise InputError(f"every {every!r}: must be a number with s, m, h or d, such as 12h")
    return Trigger(every_s=int(match[1]) * _UNITS[match[2]])
