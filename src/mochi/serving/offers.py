"""The models on offer, and what is known of each."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from mochi.serving.inputs import Checked, check_input
from mochi.serving.problems import Problem, invalid
from mochi.serving.runner.protocol import Description, LoraEntry, ModelEntry, Runner
from mochi.serving.settings import ServeSettings
from mochi.serving.store.catalog import Catalog
from mochi.serving.store.database import DatabaseError

_VERSION = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Offer:
    """A model that clients may name; `created_at` in seconds since 1970."""

    entry: ModelEntry
    description: Description
    created_at: float

    @property
    def name(self) -> str:
        """`owner/name`."""
        return self.entry.name

    @property
    def public_source(self) -> str:
        """What a video says it was made by: a folder of this machine is nobody's business."""
        return self.entry.source if self.entry.source == "nano" else self.name

    @property
    def version(self) -> str:
        """64 hexadecimal digits."""
        return self.description.version

    def check(self, given: object, settings: ServeSettings, prefix: str = "input.") -> Checked:
        """An input for this model; raises as `check_input`."""
        defaults = self.description.defaults
        return check_input(given, defaults, settings, prefix, self.entry.lora_scales)


class Offers:
    """The models of the configuration, described by a runner, now or in an earlier run."""

    def __init__(self, entries: Sequence[ModelEntry], catalog: Catalog):
        self._entries = {entry.name: entry for entry in entries}
        self._catalog = catalog
        self._lock = threading.Lock()
        self._known = {
            name: Offer(self._entries[name], found, created)
            for name, (found, created) in catalog.known(entries).items()
        }

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, the first one first."""
        return tuple(self._entries)

    @property
    def entries(self) -> Mapping[str, ModelEntry]:
        """What is on offer, by name."""
        return MappingProxyType(self._entries)

    def add_lora(self, model: str, lora: LoraEntry) -> None:
        """Offer one more adapter for a model, once."""
        with self._lock:
            entry = self._entries[model]
            if lora.name in entry.lora_scales:
                return
            changed = replace(entry, loras=(*entry.loras, lora))
            self._entries[model] = changed
            if model in self._known:
                self._known[model] = replace(self._known[model], entry=changed)

    def learn(self, runner: Runner) -> None:
        """Take over what a runner found in the files."""
        for name, found in runner.state.descriptions.items():
            known = self._known.get(name)
            if known is not None and known.description == found:
                continue
            created = time.time() if known is None else known.created_at
            with self._lock:
                self._known[name] = Offer(self._entries[name], found, created)
            try:
                self._catalog.put(self._entries[name], found)
            except DatabaseError:
                continue  # it is learned again at the next start

    def all(self) -> list[Offer]:
        """Those that were looked at."""
        return [self._known[name] for name in self._entries if name in self._known]

    def get(self, name: str) -> Offer:
        """A model by name.

        Raises:
            Problem: 404 with the list of models, 503 while its files were not looked at yet.
        """
        if name not in self._entries:
            raise Problem(
                404,
                f"there is no model {name[:200]!r}; there are: {', '.join(self._entries)}",
                models=list(self._entries),
            )
        if name not in self._known:
            raise Problem(503, "no runner has come up yet", headers={"Retry-After": "5"})
        return self._known[name]

    def by_short_name(self, name: str) -> str:
        """`owner/name` for the name alone; a name that is none of ours stays."""
        return next((full for full in self._entries if full.partition("/")[2] == name), name)

    def resolve(self, version: str | None) -> Offer:
        """`owner/name`, `owner/name:64hex`, `64hex`, or nothing, which is the first model.

        Raises:
            Problem: 404 for an unknown model, 422 for an unknown version.
        """
        if version is None:
            return self.get(next(iter(self._entries)))
        name, _, digits = version.rpartition(":")
        if not name and not _VERSION.fullmatch(version):
            return self.get(version)
        offers = [self.get(name)] if name else self.all()
        for offer in offers:
            if offer.version == digits:
                return offer
        known = ", ".join(f"{offer.name}:{offer.version}" for offer in self.all())
        field = {"type": "value", "field": "version", "description": f"is unknown; known: {known}"}
        raise invalid([field])
