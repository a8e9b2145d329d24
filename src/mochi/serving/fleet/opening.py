"""Opening a fleet from a server's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mochi.core.errors import RequestError
from mochi.serving.bus import EventBus
from mochi.serving.fleet.settings import FleetSetting
from mochi.serving.offers import Offers
from mochi.serving.settings import ServeSettings
from mochi.serving.store.queue import SqlStore

if TYPE_CHECKING:
    from mochi.serving.fleet.fleet import Fleet


def open_fleet(
    settings: ServeSettings,
    setting: FleetSetting,
    instance: str,
    store: SqlStore,
    offers: Offers,
    bus: EventBus,
) -> Fleet:
    """A fleet that works on this server's queue.

    Raises:
        RequestError: other machines could not reach the queue or the videos, Ray is not installed,
            or its cluster does not answer.
    """
    if not store.database.is_postgresql:
        rule = "cannot be reached by replicas on other machines"
        raise RequestError("database", settings.database, rule, "postgresql://...")
    if settings.blobs is None:
        rule = "has to be a place that every machine reaches"
        raise RequestError("blobs", None, rule, "s3://..., or a shared folder")
    try:
        from mochi.serving.fleet.fleet import Fleet
        from mochi.serving.fleet.replica import Post
    except ImportError as error:
        rule = "is not installed: pip install 'mochi-video[ray]'"
        raise RequestError("ray", error.name, rule) from None

    return Fleet(setting, instance, lambda name: Post(name, settings), store, offers, bus)
