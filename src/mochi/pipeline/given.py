"""Parts of a model that were named one by one: a transformer here, a VAE there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mochi.core.errors import DownloadError, RequestError, WeightsError
from mochi.core.events import OnEvent
from mochi.pipeline.places import (
    Hub,
    fetch_file,
    fetch_parts,
    fetch_tokenizer,
    hub_name,
    local_path,
)
from mochi.weights.folder import Given, is_tokenizer, part_files
from mochi.weights.hub_files import ModelPart
from mochi.weights.names import Part

_FETCHED: dict[str, tuple[ModelPart, ...]] = {
    "dit": ("dit",),
    "vae": ("decoder", "encoder"),
    "text_encoder": ("text_encoder",),
}
_HELD: dict[str, tuple[Part, ...]] = {
    "dit": ("dit",),
    "vae": ("decoder", "encoder"),
    "text_encoder": ("t5",),
}


@dataclass(frozen=True)
class PartNames:
    """What somebody called the parts; each a path or a name on the hub, None where not named.

    Attributes:
        dit: the transformer.
        vae: the decoder, and the encoder where it is there too.
        text_encoder: T5.
        tokenizer: its tokenizer.
    """

    dit: str | None = None
    vae: str | None = None
    text_encoder: str | None = None
    tokenizer: str | None = None

    @classmethod
    def of(cls, **names: str | Path | None) -> PartNames:
        """From what an interface was given."""
        return cls(**{part: None if name is None else str(name) for part, name in names.items()})


def find_given(names: PartNames, hub: Hub, on_event: OnEvent) -> Given:
    """The files of the parts that were named, fetched if need be.

    Raises:
        RequestError: one is neither here nor a name on the hub.
        WeightsError: it is here and not what it was called.
        DownloadError: the hub does not deliver.
    """
    given: dict[Part, tuple[Path, ...]] = {}
    for field, parts in _HELD.items():
        name = getattr(names, field)
        if name is None:
            continue
        place = _place(field, name, hub, on_event)
        given[parts[0]] = part_files(parts[0], place)
        for part in parts[1:]:
            try:
                given[part] = part_files(part, place)
            except WeightsError:
                continue  # a VAE without its encoder makes videos all the same
    return given


def find_tokenizer(name: str | None, hub: Hub, on_event: OnEvent) -> Path | None:
    """The folder of the tokenizer that was named; of a file, the folder in which it lies.

    Raises:
        RequestError: it is neither here nor a name on the hub.
        WeightsError: it is here, and holds no vocabulary.
        DownloadError: the hub does not deliver.
    """
    if name is None:
        return None
    path = local_path("tokenizer", name)
    if path is None:
        wanted = hub_name(name)
        if wanted is None:
            raise _unknown("tokenizer", name)
        return _from_hub(name, lambda: fetch_tokenizer(wanted.repo, hub, on_event))
    folder = path if path.is_dir() else path.parent
    for place in (folder, folder / "tokenizer"):
        if is_tokenizer(place):
            return place
    raise WeightsError("holds no tokenizer.json and no spiece.model", folder)


def _place(field: str, name: str, hub: Hub, on_event: OnEvent) -> Path:
    path = local_path(field, name)
    if path is not None:
        return path
    wanted = hub_name(name)
    if wanted is None:
        raise _unknown(field, name)
    if wanted.file is not None:
        return _from_hub(name, lambda: fetch_file(wanted, hub, on_event))
    cached = _cached(field, wanted.repo, hub)
    parts = _FETCHED[field]
    return cached or _from_hub(
        name, lambda: fetch_parts(wanted.repo, parts, parts[:1], hub, on_event)
    )


def _cached(field: str, repo: str, hub: Hub) -> Path | None:
    """The folder of a repository in the cache, if the part is there."""
    from mochi.weights.hub import find_cached

    folder = find_cached(repo, hub.revision, hub.cache)
    try:
        if folder is not None:
            part_files(_HELD[field][0], folder)
        return folder
    except WeightsError:
        return None


def _from_hub(name: str, fetch: Callable[[], Path]) -> Path:
    try:
        return fetch()
    except DownloadError as error:
        raise DownloadError(f"{name} is not here, and the hub says: {error}") from error


def _unknown(field: str, name: str) -> RequestError:
    return RequestError(
        field, name, "is neither a file, a folder nor a name on the hub (owner/name[/FILE])"
    )
