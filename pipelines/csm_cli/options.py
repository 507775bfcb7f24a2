"""Options that several commands have, and what is read from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from csm_components.spec import Image as Role
from csm_model.errors import InputError

if TYPE_CHECKING:
    from csm_pipelines.kfp_client import Trigger

Pipeline = Annotated[str, typer.Argument(help="The pipeline: {pipelines}.")]
Profile = Annotated[str, typer.Option(help="The cluster: a profile of deploy/profiles, or a file.")]
Preset = Annotated[str, typer.Option(help="What to run, as for csm run: {presets}.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the preset; may be repeated."),
]
Bundle = Annotated[str | None, typer.Option(help="Float bundle to release: a folder or an address.")]
Shards = Annotated[int | None, typer.Option(help="Shards of ingest and tokenise.", show_default="the profile's")]
Images = Annotated[
    list[str] | None,
    typer.Option("--image", metavar="ROLE=IMAGE", help="Image by digest, data=... or train=...; may be repeated."),
]

ROLES = get_args(Role)
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
    from csm_pipelines.kfp_client import Trigger

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
