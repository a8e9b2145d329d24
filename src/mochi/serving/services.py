"""Everything that a server is made of, opened together and closed together."""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from mochi.core.errors import OutputError
from mochi.serving import made
from mochi.serving.blobs import Blobs
from mochi.serving.bus import EventBus, open_bus
from mochi.serving.configured import make_shelf, model_entries
from mochi.serving.errands import Errands
from mochi.serving.fleet.opening import open_fleet
from mochi.serving.housekeeping import Housekeeper
from mochi.serving.jobs import ENDED, Job
from mochi.serving.limiter import Limiter
from mochi.serving.links import Links
from mochi.serving.metrics import Metrics
from mochi.serving.offers import Offers
from mochi.serving.opening import make_folder, open_database
from mochi.serving.runner.process import ProcessRunner
from mochi.serving.runner.protocol import LoraEntry, ModelEntry, Runner
from mochi.serving.safety import Safety
from mochi.serving.settings import ServeSettings
from mochi.serving.shelf import Shelf, take_up
from mochi.serving.store.audit import Audit
from mochi.serving.store.catalog import Catalog
from mochi.serving.store.database import Database
from mochi.serving.store.files import Files
from mochi.serving.store.outbox import Outbox
from mochi.serving.store.queue import SqlStore
from mochi.serving.store.runtimes import Runtimes
from mochi.serving.store.tokens import Tokens
from mochi.serving.store.usage import Usage
from mochi.serving.trainings.book import Book, Training
from mochi.serving.trainings.opening import (
    lora_entry,
    open_book,
    open_shared,
    open_trainers,
    share_all,
    with_trained,
)
from mochi.serving.trainings.shared import Shared
from mochi.serving.trainings.trainers import Trainers
from mochi.serving.webhooks import Courier, Policy, Resolver, resolve
from mochi.serving.worker import Worker

if TYPE_CHECKING:
    from mochi.serving.fleet.fleet import Fleet

log = structlog.get_logger()
_LOCK_SECONDS = 3.0
MakeRunner = Callable[[str, tuple[ModelEntry, ...]], Runner]


@dataclass
class Services:
    """One server's parts. `start` sets the workers going; `close` stops everything."""

    settings: ServeSettings
    database: Database
    store: SqlStore
    files: Files
    tokens: Tokens
    runtimes: Runtimes
    outbox: Outbox
    audit: Audit
    usage: Usage
    blobs: Blobs
    bus: EventBus
    offers: Offers
    links: Links
    policy: Policy
    safety: Safety
    workers: list[Worker]
    housekeeper: Housekeeper
    limiter: Limiter
    metrics: Metrics
    webhook_secret: bytes
    work: Path
    lock: int
    port: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    uploads: set[str] = field(default_factory=set)
    errands: Errands = field(default_factory=Errands)
    shared: Shared | None = None
    trainers: Trainers | None = None
    fleet: Fleet | None = None

    def start(self) -> None:
        """Begin to work."""
        for worker in self.workers:
            worker.start()
        if self.fleet is not None:
            self.fleet.start()
        self.housekeeper.start()
        if self.trainers is not None:
            self.trainers.start()

    @property
    def runners(self) -> list[Runner]:
        """Those of this process, and those of its replicas elsewhere."""
        found: list[Runner] = [worker.runner for worker in self.workers]
        if self.fleet is not None:
            found += [worker.runner for worker in self.fleet.workers]
        return found

    def is_coming(self, file_id: str) -> bool:
        """Whether this process is making or receiving it: its bytes may be there, its row not."""
        return file_id in self.uploads or any(file_id in it.file_ids for it in self.workers)

    def runner(self) -> Runner | None:
        """One that answers questions, or None."""
        for runner in self.runners:
            if runner.state.state in ("idle", "busy"):
                return runner
        return None

    def offer_trained(self, training: Training) -> None:
        """An adapter that was just trained, to everyone who may use its model."""
        assert self.trainers is not None
        if self.shared is not None:
            self.offer_shared()
            return
        lora = lora_entry(self.trainers.book, training)
        for worker in self.workers:  # first: whoever is told of it may ask for it at once
            worker.runner.offer(training.model, lora)
        self.offers.add_lora(training.model, lora)

    def offer_shared(self) -> None:
        """Adapters that were trained on any server of this database; runners fetch them."""
        for name, found in self.shared.all().items() if self.shared is not None else ():
            if found.model in self.offers.names:
                self.offers.add_lora(found.model, LoraEntry(name, source=found.key))

    def remove(self, job: Job) -> bool:
        """Remove an ended job and every copy of what it made; False: it has not ended."""
        if job.status not in ENDED or not self.store.delete(job.id, job.account):
            return False
        for file in self.files.of(job.id):
            self.remove_file(file.id)
        self.database.scrub()
        return True

    def remove_file(self, file_id: str) -> None:
        """Remove a file, and what was made of it."""
        self.files.remove(file_id)
        self.blobs.delete(file_id)

    def close(self) -> None:
        """Stop: claim nothing more, end or hand back what runs, close everything."""
        self.stopping.set()
        if self.trainers is not None:
            self.trainers.stop()
        stops = [
            threading.Thread(target=worker.stop, args=(self.settings.stop_seconds,))
            for worker in self.workers
        ]
        for stop in stops:
            stop.start()
        self.housekeeper.stop()
        if self.fleet is not None:
            self.fleet.stop(self.settings.stop_seconds)
        for stop in stops:
            stop.join()
        self.bus.close()
        self.database.close()
        os.close(self.lock)


def open_services(
    settings: ServeSettings,
    make_runner: MakeRunner = ProcessRunner,
    resolver: Resolver = resolve,
) -> Services:
    """Open the database, bring it up to date, take back what an earlier run of this server held.

    Raises:
        OutputError: the data folder cannot be used, or another server uses it.
        RequestError: a setting is not possible.
        DatabaseError: the database does not answer.
    """
    lock, instance = _take_folder(settings.data)
    try:
        return _open(settings, make_runner, resolver, lock, instance)
    except BaseException:
        os.close(lock)
        raise


def _open(
    settings: ServeSettings,
    make_runner: MakeRunner,
    resolver: Resolver,
    lock: int,
    instance: str,
) -> Services:
    database = open_database(settings)
    store, files, tokens = SqlStore(database), Files(database), Tokens(database)
    runtimes, outbox, audit = Runtimes(database), Outbox(database), Audit(database)
    work, gone = made.new_work(settings.data / "work")
    book = open_book(settings, database.clock)
    entries = model_entries(settings)
    if not database.is_postgresql:
        entries = with_trained(entries, book)
    offers = Offers(entries, Catalog(database))
    bus = open_bus(database.unflushed())  # progress that is lost comes with the next step
    metrics = Metrics()
    shelf = make_shelf(
        settings,
        database,
        bus,
        work,
        instance,
        offers,
        on_end=lambda job: metrics.ended(job.model, job.status, job.metrics.get("predict_time")),
        on_flag=lambda job, verdict: _flagged(job, verdict, audit),
    )
    _take_back(shelf, gone)
    workers = [Worker(make_runner(device, entries), shelf) for device in settings.devices]
    services = Services(
        settings,
        database,
        store,
        files,
        tokens,
        runtimes,
        outbox,
        audit,
        Usage(database),
        shelf.blobs,
        bus,
        offers,
        Links(
            tokens.secret("links"), settings.link_seconds, database.clock, settings.retention_days
        ),
        Policy(settings.webhook_hosts, resolver, settings.webhook_private),
        Safety.of(settings.safety, settings.safety_terms),
        workers,
        Housekeeper(),
        Limiter(settings.requests_per_minute),
        metrics,
        tokens.secret("webhooks"),
        work,
        lock,
    )
    if settings.ray is not None:
        services.fleet = open_fleet(settings, settings.ray, instance, store, offers, bus)
    return _joined(services, book)


def _joined(services: Services, book: Book | None) -> Services:
    """With those parts that need the others."""
    services.shared = open_shared(services.database, services.blobs, services.work)
    if services.shared is not None and book is not None:
        share_all(services.shared, book)
    services.offer_shared()
    services.trainers = open_trainers(
        services.settings, book, services.offers.entries, services.offer_trained, services.shared
    )
    services.tokens.any()
    services.metrics.watch(services)
    services.housekeeper.attend(services, Courier(services))
    return services


def _take_back(shelf: Shelf, gone: Sequence[Path]) -> None:
    """An earlier process of this folder is gone, or the lock would be: what it had made is taken
    up, the rest of its jobs wait again."""
    take_up(shelf, made.found_in(gone))
    returned = shelf.store.release(f"{shelf.owner}:")
    if returned:
        log.info("jobs_taken_back", count=returned)
    made.remove(gone)


def _flagged(job: Job, verdict: Mapping[str, Any], audit: Audit) -> None:
    log.warning("run_flagged", id=job.id, **verdict)
    audit.flagged(job, verdict)


def _locked(lock: int) -> bool:
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _take_folder(folder: Path) -> tuple[int, str]:
    """Lock the data folder for this process; returns the lock and the folder's own name.

    The lock is the system's: it goes when the process does, however it dies. A child that was just
    being started when it died may hold it for a moment longer.
    """
    make_folder(folder)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    patience = time.monotonic() + _LOCK_SECONDS
    while not _locked(lock):
        if time.monotonic() > patience:
            os.close(lock)
            raise OutputError(f"{folder}: another server works in this folder")
        time.sleep(0.05)
    name = os.read(lock, 64).decode()
    if not name:
        name = secrets.token_hex(8)
        os.write(lock, name.encode())
    return lock, name
