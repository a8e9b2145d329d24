"""Names of models to their files: the one in the package, folders, files, the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mochi.core.errors import DownloadError, RequestError, WeightsError
from mochi.core.events import Notice, OnEvent, ignore
from mochi.pipeline.given import PartNames, find_given, find_tokenizer
from mochi.pipeline.places import (
    NANO,
    Hub,
    HubName,
    fetch_file,
    fetch_parts,
    hub_name,
    local_path,
    nano_folder,
    told,
)
from mochi.weights.folder import Given, ModelFiles
from mochi.weights.hub_files import PARTS, ModelPart

__all__ = ["Hub", "find_lora", "find_model", "find_place", "nano_folder", "present_models"]

_ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def find_model(
    model: str | None,
    hub: Hub | None = None,
    on_event: OnEvent = ignore,
    parts: PartNames | None = None,
) -> ModelFiles:
    """The files of a model, fetched if need be, and the line that says what they are.

    Args:
        model: `nano`, a folder, a file, or a name on the hub; None is `nano`, or where the
            transformer is named, what lies beside that.
        hub: where to fetch from.
        on_event: told about a download, and what was found.
        parts: what to take from elsewhere.

    Raises:
        RequestError: there is no such model; lists those there are.
        WeightsError: the folder or file holds no whole model, or not a clear one.
        DownloadError: the hub does not deliver.
    """
    hub, parts = hub or Hub(), parts or PartNames()
    given = find_given(parts, hub, on_event)
    tokenizer = find_tokenizer(parts.tokenizer, hub, on_event)
    if model is None and "dit" in given:
        files = ModelFiles.find(given["dit"][0].parent, None, given, tokenizer)
    else:
        files = _of_model(NANO if model is None else model, hub, on_event, given, tokenizer)
    if files.folder != nano_folder() or given:
        on_event(Notice(f"{model or parts.dit or NANO}: {files.description}"))
    return files


def find_place(name: str, hub: Hub | None = None, on_event: OnEvent = ignore) -> Path:
    """The file or folder that a name means, be it a whole model or parts of one.

    Raises:
        RequestError: there is no such thing; lists the models there are.
        DownloadError: the hub does not deliver.
    """
    hub = hub or Hub()
    place = local_path("model", name)
    if place is not None:
        return place
    wanted = _wanted(name, hub)
    if wanted.file is not None:
        return fetch_file(wanted, hub, on_event)
    cached = _in_cache(wanted, hub)
    return fetch_parts(wanted.repo, PARTS, (), hub, on_event) if cached is None else cached.folder


def _wanted(model: str, hub: Hub) -> HubName:
    wanted = hub_name(model)
    if wanted is None:
        present = ", ".join(dict.fromkeys([NANO, *present_models(hub)]))
        raise RequestError(
            "model",
            model,
            "is no file, and neither a folder nor a name on the hub (owner/name)",
            present,
        )
    return wanted


def _of_model(
    model: str, hub: Hub, on_event: OnEvent, given: Given, tokenizer: Path | None
) -> ModelFiles:
    place = local_path("model", model)
    if place is not None:
        return ModelFiles.find(place, None, given, tokenizer)
    wanted = _wanted(model, hub)
    cached = _in_cache(wanted, hub, given, tokenizer)
    return cached or _fetched(wanted, hub, on_event, given, tokenizer)


def present_models(hub: Hub | None = None) -> dict[str, ModelFiles]:
    """The models on this machine by name: nano, and those in the hub's cache."""
    return dict(_present(hub or Hub()))


def find_lora(given: str, hub: Hub | None = None, on_event: OnEvent = ignore) -> tuple[Path, str]:
    """The file or folder of an adapter, and what it is called in records.

    A name on the hub (`owner/name`, or `owner/name/FILE` where it holds several) is fetched if
    need be.

    Raises:
        RequestError: there is nothing of this name.
        DownloadError: the hub does not deliver.
    """
    from mochi.weights.hub_lora import fetch_lora, hub_lora_name

    try:
        path = Path(given).expanduser()
        if given.strip() and path.exists():
            return path, path.name or path.resolve().name
        wanted = None if path.suffix in _ENDINGS and len(path.parts) < 3 else hub_lora_name(given)
        if wanted is not None and wanted[1] and Path(path.parts[0]).is_dir():
            wanted = None  # a path in a folder that is here
    except (OSError, ValueError, RuntimeError) as error:  # too long, a loop, no such user
        raise RequestError("lora", given, f"is no path: {error}") from None
    if wanted is None:
        raise RequestError("lora", given, "is no file, no folder and no name on the hub")
    try:
        return fetch_lora(*wanted, **told(given, hub or Hub(), on_event)), given
    except DownloadError as error:
        raise DownloadError(f"{given} is no file here, and the hub says: {error}") from error


def _present(hub: Hub) -> Iterator[tuple[str, ModelFiles]]:
    if (nano_folder() / "dit.safetensors").is_file():
        yield NANO, ModelFiles.find(nano_folder())
    from huggingface_hub.constants import HF_HUB_CACHE

    for folder in sorted(Path(hub.cache or HF_HUB_CACHE).glob("models--*--*")):
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        files = _in_cache(HubName(name, None), hub)
        if files is not None:
            yield name, files


def _in_cache(
    wanted: HubName, hub: Hub, given: Given | None = None, tokenizer: Path | None = None
) -> ModelFiles | None:
    """A whole model in the cache; None where it is absent, partial or something else."""
    from mochi.weights.hub import find_cached

    folder = find_cached(wanted.repo, hub.revision, hub.cache)
    try:
        if folder is None:
            return None
        return ModelFiles.find(folder / (wanted.file or ""), None, given, tokenizer)
    except WeightsError:
        return None


def _fetched(
    wanted: HubName, hub: Hub, on_event: OnEvent, given: Given, tokenizer: Path | None
) -> ModelFiles:
    try:
        if wanted.file is not None:
            place = fetch_file(wanted, hub, on_event)
        else:
            absent = {"t5": "text_encoder"}
            named = {absent.get(part, part) for part in given} | (
                {"tokenizer"} if tokenizer else set()
            )
            parts: list[ModelPart] = [part for part in PARTS if part not in named]
            needed: list[ModelPart] = [p for p in parts if p in ("dit", "decoder")]
            place = fetch_parts(wanted.repo, parts, needed, hub, on_event)
    except DownloadError as error:
        name = wanted.repo
        raise DownloadError(f"{name} is no folder here, and the hub says: {error}") from error
    return ModelFiles.find(place, None, given, tokenizer)
