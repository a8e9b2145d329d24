"""Adapters on a hub: `owner/name`, or `owner/name/FILE` where a repository holds several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mochi.core.errors import DownloadError, WeightsError
from mochi.weights.hub import download, find_cached
from mochi.weights.hub_places import StrPath
from mochi.weights.lora_files import ADAPTER_CONFIG, NAMES, LoraFiles

_NAME = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:/(?P<file>[^/].*))?", re.ASCII)
_BESIDE = re.compile(r"(README\.md|LICEN[SC]E[^/]*)", re.IGNORECASE)


def hub_lora_name(text: str) -> tuple[str, str | None] | None:
    """The repository and the file, if it is named; None where this is no such name."""
    found = _NAME.fullmatch(text)
    return (found["repo"], found["file"]) if found else None


def fetch_lora(repo_id: str, file: str | None = None, **options: Any) -> Path:
    """An adapter from the hub, without the network where it is in the cache already.

    Args:
        repo_id: such as `owner/name`.
        file: which one of several.
        options: of `hub.download`: endpoint, revision, token, cache, on_plan, on_progress.

    Returns:
        The file with the matrices.

    Raises:
        DownloadError: the hub does not deliver, or it is not clear which file is meant.
    """
    cached = _cached(repo_id, file, options.get("revision"), options.get("cache"))
    if cached is not None:
        return cached

    def choose(names: Sequence[str]) -> Sequence[str]:
        return choose_lora(repo_id, names, file)

    folder = download(repo_id, choose=choose, **options)
    fetched = _cached(repo_id, file, options.get("revision"), options.get("cache"))
    if fetched is None:
        raise DownloadError(f"{repo_id} has no adapter that Mochi can read; see {folder}")
    return fetched


def choose_lora(repo_id: str, names: Sequence[str], file: str | None) -> list[str]:
    """The files of an adapter among all of a repository, with its licence and description.

    Raises:
        DownloadError: there is none, or there are several and none was named.
    """
    weights = [name for name in names if name.endswith(".safetensors")]
    inside = [name for name in weights if "/" not in name]
    if file is not None:
        found = [file] if file in names else []
    else:
        usual = [name for name in NAMES if name in inside]
        found = usual[:1] or (inside if len(inside) == 1 else [])
    if not found:
        what = f"no {file}" if file else "no single adapter" if weights else "no .safetensors"
        shown = ", ".join(weights[:8]) or "none"
        raise DownloadError(f"{repo_id} has {what}; its files: {shown}")
    config = str(PurePosixPath(found[0]).with_name(ADAPTER_CONFIG))
    beside = [name for name in names if _BESIDE.fullmatch(name) or name == config]
    return [*beside, *found]


def _cached(
    repo_id: str, file: str | None, revision: str | None, cache: StrPath | None
) -> Path | None:
    folder = find_cached(repo_id, revision, cache)
    if folder is None or (file and ".." in PurePosixPath(file).parts):
        return None
    try:
        return LoraFiles.find(folder / file if file else folder).weights
    except WeightsError:
        return None
