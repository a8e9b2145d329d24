"""A server's trainings, and the adapters that they made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from mochi.core.errors import MochiError
from mochi.serving.blobs import Blobs
from mochi.serving.runner.protocol import LoraEntry, ModelEntry
from mochi.serving.settings import ServeSettings
from mochi.serving.store.adapters import Adapters
from mochi.serving.store.database import Database
from mochi.serving.trainings.archive import Limits
from mochi.serving.trainings.book import Book, Training
from mochi.serving.trainings.shared import Shared
from mochi.serving.trainings.trainers import Trainers

log = structlog.get_logger()


def open_book(settings: ServeSettings, clock: Callable[[], float]) -> Book | None:
    """The trainings in the server's folder; None where it does not train.

    Raises:
        OutputError: the folder cannot be used.
    """
    return None if settings.training is None else Book(settings.data / "trainings", clock)


def open_trainers(
    settings: ServeSettings,
    book: Book | None,
    entries: Mapping[str, ModelEntry],
    on_done: Callable[[Training], None],
    shared: Shared | None,
) -> Trainers | None:
    """Who works through the book; None where there is none."""
    if book is None or settings.training is None:
        return None
    limits = Limits(settings.training.max_files, settings.training.unpacked_bytes)
    return Trainers(book, entries, settings.training.device, limits, on_done, shared)


def open_shared(database: Database, blobs: Blobs, folder: Path) -> Shared | None:
    """Where servers on one database find each other's adapters; None where there is one server."""
    return Shared(Adapters(database), blobs, folder) if database.is_postgresql else None


def share_all(shared: Shared, book: Book) -> None:
    """Give all servers what was trained here when there was only one."""
    known = {it.key for it in shared.all().values()}
    for training in book.succeeded():
        if training.id not in known and book.adapter(training).is_dir():
            try:
                shared.share(book, training)
            except (MochiError, OSError) as error:
                log.warning("adapter_not_shared", id=training.id, reason=str(error))


def lora_entry(book: Book, training: Training) -> LoraEntry:
    """A finished training as an adapter on offer."""
    return LoraEntry(training.name, str(book.adapter(training).resolve()))


def with_trained(entries: Sequence[ModelEntry], book: Book | None) -> tuple[ModelEntry, ...]:
    """The models with the adapters that were trained here, where they are still there."""
    trained = [] if book is None else book.succeeded()
    done = [
        (it.model, lora_entry(book, it)) for it in trained if book and book.adapter(it).is_dir()
    ]
    return tuple(
        replace(
            entry,
            loras=(
                *entry.loras,
                *(
                    lora
                    for model, lora in done
                    if model == entry.name and lora.name not in entry.lora_scales
                ),
            ),
        )
        for entry in entries
    )
