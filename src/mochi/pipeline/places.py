"""From what somebody calls a model, or a part of one, to a file or folder on this machine.

A name may be a path, or stand for something on the hub: a repository (`owner/name`), or one file of
it (`owner/name/FILE` or `owner/name:FILE`). What is not here is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import mochi
from mochi.core.errors import DownloadError, RequestError
from mochi.core.events import Notice, OnEvent
from mochi.weights.candidates import ENDINGS
from mochi.weights.folder import is_tokenizer

if TYPE_CHECKING:
    from mochi.weights.hub import DownloadPlan, DownloadProgress
    from mochi.weights.hub_files import ModelPart

NANO = "nano"
TOKENIZER_FILES = (
    "tokenizer.json",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_REPOSITORY = r"[\w-][\w.-]*/[\w-][\w.-]*"
_WEIGHTS = r"\.(?:safetensors|sft|gguf|pt|pth|ckpt|bin)"  # else it is a path that is not there
_HUB_NAME = re.compile(
    rf"(?P<repo>{_REPOSITORY})(?::(?P<any>[^/].*)|/(?P<file>[^/].*{_WEIGHTS}))?", re.ASCII
)
_BESIDE = re.compile(r"(README\.md|LICEN[SC]E[^/]*)", re.IGNORECASE)
_NOTICES = 20


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


@dataclass(frozen=True)
class HubName:
    """A repository, and one file of it where that is named."""

    repo: str
    file: str | None


def nano_folder() -> Path:
    """Where the small trained model lies inside the package."""
    return Path(mochi.__file__).parent / NANO


def local_path(field: str, name: str) -> Path | None:
    """The path that a name means, if there is something.

    Raises:
        RequestError: it can be no path at all.
    """
    if name == NANO:
        return nano_folder()
    try:
        path = Path(name).expanduser()
        return path if name.strip() and (path.exists() or path.is_symlink()) else None
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, no such user
        raise RequestError(field, name, f"is no path: {error}") from None


def hub_name(name: str) -> HubName | None:
    """What a name means on the hub; None where it can mean nothing there."""
    found = _HUB_NAME.fullmatch(name)
    if found is None:
        return None
    file = found["any"] or found["file"]
    if ".." in PurePosixPath(file or "").parts or (file is None and name.endswith(ENDINGS)):
        return None  # a file in a folder, which is not there
    return HubName(found["repo"], file)


def fetch_file(wanted: HubName, hub: Hub, on_event: OnEvent) -> Path:
    """One file of a repository, without the network where it is in the cache.

    Raises:
        DownloadError: there is no such file, or the hub does not deliver.
    """
    from mochi.weights.hub import download, find_cached

    file = wanted.file
    assert file is not None
    cached = find_cached(wanted.repo, hub.revision, hub.cache)
    if cached is not None and (cached / file).is_file():
        return cached / file

    def choose(names: Sequence[str]) -> list[str]:
        if file not in names:
            shown = ", ".join(name for name in names if name.endswith(ENDINGS)) or "none of weights"
            raise DownloadError(f"{wanted.repo} has no {file}; its files: {shown[:300]}")
        return [name for name in names if _BESIDE.fullmatch(name) or name == file]

    return download(wanted.repo, choose=choose, **told(wanted.repo, hub, on_event)) / file


def fetch_tokenizer(repo: str, hub: Hub, on_event: OnEvent) -> Path:
    """The tokenizer of a repository: at its root, as in `google/t5-v1_1-xxl`, or in `tokenizer/`.

    Raises:
        DownloadError: it has none, or the hub does not deliver.
    """
    from mochi.weights.hub import download, find_cached

    def inside(folder: Path | None) -> Path | None:
        places = [] if folder is None else [folder, folder / "tokenizer"]
        return next((place for place in places if is_tokenizer(place)), None)

    def choose(names: Sequence[str]) -> list[str]:
        for prefix in ("", "tokenizer/"):
            found = [name for name in names if name in {f"{prefix}{t}" for t in TOKENIZER_FILES}]
            if any(name.endswith(TOKENIZER_FILES[:2]) for name in found):
                return [name for name in names if _BESIDE.fullmatch(name)] + found
        raise DownloadError(f"{repo} has no tokenizer ({' or '.join(TOKENIZER_FILES[:2])})")

    cached = inside(find_cached(repo, hub.revision, hub.cache))
    if cached is not None:
        return cached
    fetched = inside(download(repo, choose=choose, **told(repo, hub, on_event)))
    assert fetched is not None
    return fetched


def fetch_parts(
    repo: str, parts: Sequence[ModelPart], needed: Sequence[ModelPart], hub: Hub, on_event: OnEvent
) -> Path:
    """The folder of a repository with some parts of a model in it.

    Raises:
        DownloadError: it lacks a needed one, or the hub does not deliver.
    """
    from mochi.weights.hub import download

    options = told(repo, hub, on_event)
    tell = options.pop("on_plan")

    def check(plan: DownloadPlan) -> None:
        lacking = [part for part in needed if part in plan.absent]
        if lacking:
            option = "--dit" if lacking[0] == "dit" else "--vae"
            raise DownloadError(f"{repo} has no {' and no '.join(lacking)}; name one with {option}")
        tell(plan)

    return download(repo, parts=parts, on_plan=check, **options)


def told(name: str, hub: Hub, on_event: OnEvent) -> dict[str, Any]:
    """Options of a download: from where, and with its plan and its progress as events."""
    last = 0

    def tell(progress: DownloadProgress) -> None:
        nonlocal last
        part = _NOTICES * progress.done_bytes // max(1, progress.total_bytes)
        if part > last:
            last = part
            on_event(Notice(f"downloading {name}: {100 * part // _NOTICES} %"))

    return {
        "endpoint": hub.endpoint,
        "revision": hub.revision,
        "token": hub.token,
        "cache": hub.cache,
        "on_plan": lambda plan: on_event(Notice(f"downloading {plan}")),
        "on_progress": tell,
    }
