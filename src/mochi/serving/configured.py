"""What the settings offer, as those parts want it that do not read settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mochi.serving.blobs import open_blobs
from mochi.serving.bus import EventBus
from mochi.serving.examples import PAGE
from mochi.serving.jobs import Job
from mochi.serving.offers import Offers
from mochi.serving.runner.protocol import Checks, LoraEntry, ModelEntry, Watch
from mochi.serving.settings import ClassifierSetting, ServeSettings
from mochi.serving.shelf import Shelf
from mochi.serving.store.database import Database
from mochi.serving.store.queue import SqlStore
from mochi.serving.trainings.opening import open_shared


def model_entries(settings: ServeSettings) -> tuple[ModelEntry, ...]:
    """What runners are told of the models and adapters on offer."""
    return tuple(
        ModelEntry(
            model.name,
            model.source,
            model.options(),
            tuple(
                LoraEntry(it.name, it.source, it.scale, it.mode, it.description)
                for it in settings.loras
                if not it.models or model.name in it.models
            ),
            _checks(settings),
        )
        for model in settings.models
    )


def make_shelf(
    settings: ServeSettings,
    database: Database,
    bus: EventBus,
    work: Path,
    owner: str,
    offers: Offers,
    on_flag: Callable[[Job, Mapping[str, Any]], None],
    on_end: Callable[[Job], None] = lambda job: None,
) -> Shelf:
    """What workers work with, on a server and in a replica; raises as `open_signer`."""
    blobs = open_blobs(settings.blobs or settings.data / "blobs")
    shelf = Shelf(
        SqlStore(database),
        blobs,
        bus,
        work,
        owner,
        offers.names,
        settings.lease_seconds,
        settings.price_per_hour,
        settings.together,
        settings.max_attempts,
        on_ready=offers.learn,
        on_end=on_end,
        on_flag=on_flag,
        sign=open_signer(settings, work),
    )
    shared = open_shared(database, blobs, work)
    return shelf if shared is None else replace(shelf, bring=shared.bring)


def open_signer(settings: ServeSettings, work: Path) -> Callable[[Path, str], None]:
    """What signs finished videos: nothing, without a certificate.

    Raises:
        RequestError: certificate and key do not sign.
    """
    if settings.c2pa_certificate is None or settings.c2pa_key is None:
        return lambda video, model: None
    from mochi.serving.provenance import Signer

    signer = Signer(settings.c2pa_certificate, settings.c2pa_key)
    signer.check(PAGE / "examples" / "red-circle.mp4", work)
    return signer.sign


def _checks(settings: ServeSettings) -> Checks:
    if settings.safety == "off":
        return Checks()
    blocks = settings.safety == "block"
    return Checks(blocks, _watch(settings.prompt_classifier), _watch(settings.frame_classifier))


def _watch(given: ClassifierSetting | None) -> Watch | None:
    if given is None:
        return None
    return Watch(given.source, given.labels, given.threshold, given.licence)
