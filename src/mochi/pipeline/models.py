"""Names of models to their files: the one in the package, folders, the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mochi
from mochi.core.errors import DownloadError, RequestError, WeightsError
from mochi.core.events import Notice, OnEvent, ignore
from mochi.weights.folder import ModelFiles

if TYPE_CHECKING:
    from mochi.weights.hub import DownloadProgress

NANO = "nano"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_NOTICES = 20
_ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class Hub:
    """Where models that are not here come from; None takes what Hugging Face programs take.

    Attributes:
        endpoint: address of the hub.
        revision: branch, tag or commit.
        token: for private repositories.
        cache: folder of the cache.
    """

    endpoint: str | None = None
    revision: str | None = None
    token: str | None = None
    cache: Path | None = None


def nano_folder() -> Path:
    """Where the small trained model lies inside the package."""
    return Path(mochi.__file__).parent / NANO


def find_model(model: str, hub: Hub | None = None, on_event: OnEvent = ignore) -> ModelFiles:
    """The files of `nano`, of a folder, or of a model on the hub, which is fetched if need be.

    Raises:
        RequestError: there is no such model; lists those there are.
        WeightsError: the folder holds no whole model.
        DownloadError: the hub does not deliver.
    """
    if model == NANO:
        return ModelFiles.find(nano_folder())
    folder = Path(model).expanduser()
    if folder.exists():
        return ModelFiles.find(folder)
    hub = hub or Hub()
    if not _HUB_NAME.fullmatch(model) or model.startswith("."):
        present = ", ".join(dict.fromkeys([NANO, *present_models(hub)]))
        raise RequestError(
            "model", model, "is neither a folder nor a name on the hub (owner/name)", present
        )
    return _in_cache(model, hub) or _fetched(model, hub, on_event)


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
        return fetch_lora(*wanted, **_told(given, hub or Hub(), on_event)), given
    except DownloadError as error:
        raise DownloadError(f"{given} is no file here, and the hub says: {error}") from error


def _present(hub: Hub) -> Iterator[tuple[str, ModelFiles]]:
    if (nano_folder() / "dit.safetensors").is_file():
        yield NANO, ModelFiles.find(nano_folder())
    from huggingface_hub.constants import HF_HUB_CACHE

    for folder in sorted(Path(hub.cache or HF_HUB_CACHE).glob("models--*--*")):
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        files = _in_cache(name, hub)
        if files is not None:
            yield name, files


def _in_cache(name: str, hub: Hub) -> ModelFiles | None:
    """A whole model in the cache; None where it is absent, partial or something else."""
    from mochi.weights.hub import find_cached

    folder = find_cached(name, hub.revision, hub.cache)
    try:
        return None if folder is None else ModelFiles.find(folder)
    except WeightsError:
        return None


def _fetched(name: str, hub: Hub, on_event: OnEvent) -> ModelFiles:
    from mochi.weights.hub import download

    try:
        folder = download(name, **_told(name, hub, on_event))
    except DownloadError as error:
        raise DownloadError(f"{name} is no folder here, and the hub says: {error}") from error
    return ModelFiles.find(folder)


def _told(name: str, hub: Hub, on_event: OnEvent) -> dict[str, Any]:
    """Options of a download: from where, and with its plan and its progress as events."""
    told = 0

    def tell(progress: DownloadProgress) -> None:
        nonlocal told
        part = _NOTICES * progress.done_bytes // max(1, progress.total_bytes)
        if part > told:
            told = part
            on_event(Notice(f"downloading {name}: {100 * part // _NOTICES} %"))

    return {
        "endpoint": hub.endpoint,
        "revision": hub.revision,
        "token": hub.token,
        "cache": hub.cache,
        "on_plan": lambda plan: on_event(Notice(f"downloading {plan}")),
        "on_progress": tell,
    }
