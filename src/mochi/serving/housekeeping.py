"""What has to happen now and then: leases of the dead, deadlines, webhooks, old jobs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import structlog

from mochi.core.errors import MochiError
from mochi.serving.bell import JOBS

if TYPE_CHECKING:
    from mochi.serving.services import Services
    from mochi.serving.webhooks import Courier

log = structlog.get_logger()
_SECONDS = 0.5
_SECONDS_BETWEEN_CLEANINGS = 600.0
_DAY = 24 * 3600.0


class Housekeeper:
    """Two threads: one for the queue, one for webhooks, which may be slow."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def attend(self, services: Services, courier: Courier) -> None:
        """Whose house it is."""
        self._threads = [
            threading.Thread(target=self._loop, args=(services,), name="housekeeping"),
            threading.Thread(target=self._send, args=(courier,), name="webhooks"),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the round, no more."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _loop(self, services: Services) -> None:
        since_cleaning = _SECONDS_BETWEEN_CLEANINGS
        while not self._stopping.wait(_SECONDS):
            try:
                sweep(services)
                since_cleaning += _SECONDS
                if since_cleaning > _SECONDS_BETWEEN_CLEANINGS:
                    since_cleaning = 0.0
                    clean(services)
            except MochiError as error:
                log.warning("housekeeping_waits", reason=str(error))
            except Exception:
                log.exception("housekeeping_failed")

    def _send(self, courier: Courier) -> None:
        while not self._stopping.wait(_SECONDS):
            try:
                while courier.deliver() and not self._stopping.is_set():
                    pass
            except MochiError as error:
                log.warning("webhooks_wait", reason=str(error))
            except Exception:
                log.exception("webhooks_failed")


def sweep(services: Services) -> None:
    """Let jobs of the dead wait again, end what is late."""
    services.tokens.any()  # `mochi token` is another process
    services.offer_shared()
    for worker in services.workers:
        worker.hold()
    swept = services.store.sweep(services.settings.max_attempts)
    for job in swept:
        log.info("job_swept", id=job.id, status=job.status, attempts=job.attempts)
        if job.status == "starting":
            reason = "the runner gave no sign of life"
            retry = {"attempt": job.attempts, "reason": reason}
            services.bus.publish(job.id, ("retry", retry))
        services.bus.ring(job.id)
    if swept:
        services.bus.ring(JOBS)


def expire(services: Services, moment: float) -> None:
    """Remove jobs that ended and uploads that came before `moment`, with every copy."""
    while old := services.store.ended_before(moment):
        for job in old:
            services.remove(job)
            services.audit.add(job.account, "expired", job.id)
    while files := services.files.uploads_before(moment):
        for file in files:
            services.remove_file(file.id)
            services.audit.add(file.account, "expired", None, file=file.id)


def clean(services: Services) -> None:
    """Remove what is older than the settings keep, and bytes that nothing points to."""
    services.usage.forget()
    days = services.settings.retention_days
    if days is not None:
        expire(services, services.database.clock() - days * _DAY)
    services.database.scrub()
    if services.database.is_postgresql:
        return  # another server's video may be on its way from blobs to row
    known = services.files.known()
    for key in services.blobs.keys():  # noqa: SIM118 - no dict
        owner = key.partition(".")[0]
        # Bytes come before their row. Asked in this order, what was on its way has arrived.
        if not (owner in known or services.is_coming(owner) or owner in services.files.known()):
            services.blobs.delete(owner)
