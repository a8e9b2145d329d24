"""Models from a hub: first a plan with licence and size, then the files, resumed and checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    WeakFileLock,
    build_hf_headers,
)

from mochi.core.errors import DownloadError
from mochi.weights.hub_errors import one_line
from mochi.weights.hub_files import PARTS, WEIGHT_ENDINGS, ModelPart, RemoteFile, select
from mochi.weights.hub_places import CachePlace, FolderPlace, Place, StrPath
from mochi.weights.transfer import NETWORK_ERRORS, TIMEOUT_SECONDS, Retry, fetch

_LOCK_SECONDS = 1.0


@dataclass(frozen=True)
class DownloadPlan:
    """What would be fetched, for the user to see before it starts.

    Attributes:
        repo_id: the repository.
        commit: the commit that the revision stands for; everything comes from it.
        licence: as the repository's card states it, or None.
        files: what is needed, in order.
        here: names of the files that are in place already.
        missing_bytes: what is still to come, less what an interrupted run left of it.
        absent: parts of the model that the repository does not have.
        folder: where the model will be.
        free_bytes: room on that disk.
    """

    repo_id: str
    commit: str
    licence: str | None
    files: tuple[RemoteFile, ...]
    here: frozenset[str]
    missing_bytes: int
    absent: tuple[ModelPart, ...]
    folder: Path
    free_bytes: int

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files)

    def __str__(self) -> str:
        arrived = self.total_bytes - self.missing_bytes
        here = f", {_gb(arrived)} of it here" if arrived else ""
        lacks = f"; it has no {', '.join(self.absent)}" if self.absent else ""
        return (
            f"{self.repo_id} at {self.commit[:8]}: licence {self.licence or 'not stated'}, "
            f"{len(self.files)} files, {_gb(self.total_bytes)}{here}, to {self.folder}{lacks}"
        )


@dataclass(frozen=True)
class DownloadProgress:
    """Where a download stands, in bytes over all files; what was there before counts as done."""

    file: str
    done_bytes: int
    total_bytes: int


OnPlan = Callable[[DownloadPlan], None]
OnProgress = Callable[[DownloadProgress], None]
Choose = Callable[[Sequence[str]], Sequence[str]]
"""Takes the names of all files of a repository, gives those to fetch."""


def download(
    repo_id: str,
    dest: StrPath | None = None,
    *,
    endpoint: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    parts: Iterable[ModelPart] = PARTS,
    variant: str | None = None,
    choose: Choose | None = None,
    cache: StrPath | None = None,
    on_plan: OnPlan | None = None,
    on_progress: OnProgress | None = None,
    retry: Retry | None = None,
) -> Path:
    """Fetch a model and return its folder. Interrupt it at any time: it resumes.

    Args:
        repo_id: such as `genmo/mochi-1-preview`.
        dest: a folder for the files; None takes the cache that Hugging Face programs share.
        endpoint: the hub's address; None takes the public one.
        revision: branch, tag or commit; None takes the main branch.
        token: for private and gated repositories; None takes the one that was saved by login.
        parts: which parts of the model; those that the repository lacks are named in the plan.
        variant: of a diffusers folder, such as `bf16`.
        choose: for what is no model: picks the files, in place of `parts` and `variant`.
        cache: another place for the cache.
        on_plan: called once before the first byte; raise in it to stop.
        on_progress: called whenever bytes arrive.
        retry: patience with a server that fails.

    Raises:
        DownloadError: in one line, why it did not work. No file is left half-written under its
            own name; what arrived of it is kept for the next try.
    """
    patience = retry or Retry()
    with one_line(repo_id, revision):
        info = _ask(HfApi(endpoint=endpoint, token=token), repo_id, revision, patience)
        place: Place = (
            CachePlace(cache or constants.HF_HUB_CACHE, repo_id, info.sha, revision or "main")
            if dest is None
            else FolderPlace(dest, repo_id)
        )
        known = sorted(sibling.rfilename for sibling in info.siblings or ())
        names, absent = _chosen(repo_id, known, tuple(parts), variant, choose)
        plan = _plan(repo_id, info, names, absent, place)
        if on_plan is not None:
            on_plan(plan)
        _check_room(plan)
        headers = build_hf_headers(token=token)
        _fetch_all(plan, place, headers, endpoint, on_progress or _silent, patience)
        place.finish(plan.commit)
    return place.folder


def find_cached(
    repo_id: str, revision: str | None = None, cache: StrPath | None = None
) -> Path | None:
    """The folder of a model that is in the cache already, without asking the network."""
    root = Path(cache or constants.HF_HUB_CACHE) / ("models--" + repo_id.replace("/", "--"))
    reference = root / "refs" / (revision or "main")
    commit = reference.read_text("utf-8").strip() if reference.is_file() else revision
    folder = root / "snapshots" / (commit or "")
    return folder if commit and folder.is_dir() else None


# ------------------------------------------------------------------------------------------- steps


def _ask(api: HfApi, repo_id: str, revision: str | None, retry: Retry) -> Any:
    failures = 0
    while True:
        try:
            return api.model_info(
                repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS
            )
        except NETWORK_ERRORS as error:
            failures += 1
            retry.pause(failures, error)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, HFValidationError):
                raise
            raise DownloadError(f"{repo_id}: what answers at {api.endpoint} is no hub") from error


def _chosen(
    repo_id: str,
    known: Sequence[str],
    parts: tuple[ModelPart, ...],
    variant: str | None,
    choose: Choose | None,
) -> tuple[Sequence[str], tuple[ModelPart, ...]]:
    """The files to fetch, and the parts that the repository lacks."""
    if choose is not None:
        return choose(known), ()
    chosen = select(known, parts, variant)
    absent = tuple(part for part in parts if not chosen[part])
    if len(absent) == len(parts):
        files = [name for name in known if name.endswith(WEIGHT_ENDINGS)]
        named = f"; name one of its files, {repo_id}/FILE: {', '.join(files[:8])}" if files else ""
        raise DownloadError(f"{repo_id} has no {' or '.join(parts)} that Mochi can read{named}")
    return list(dict.fromkeys(name for part in ("", *parts) for name in chosen[part])), absent


def _plan(
    repo_id: str, info: Any, names: Sequence[str], absent: tuple[ModelPart, ...], place: Place
) -> DownloadPlan:
    known = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    files = tuple(_remote(known[name]) for name in names)
    here = frozenset(file.name for file in files if place.has(file))
    return DownloadPlan(
        repo_id=repo_id,
        commit=info.sha,
        licence=_licence(info),
        files=files,
        here=here,
        missing_bytes=sum(_missing(file, place) for file in files if file.name not in here),
        absent=absent,
        folder=place.folder,
        free_bytes=_free_bytes(place.folder),
    )


def _missing(file: RemoteFile, place: Place) -> int:
    partial = place.partial(file)
    arrived = partial.stat().st_size if partial.is_file() else 0
    return max(0, file.size - arrived)


def _remote(sibling: Any) -> RemoteFile:
    if sibling.lfs is not None:
        return RemoteFile(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256)
    return RemoteFile(sibling.rfilename, sibling.size or 0, sibling.blob_id or "")


def _licence(info: Any) -> str | None:
    stated = getattr(info.card_data, "license", None)
    if stated is None:
        tags = [tag for tag in info.tags or () if tag.startswith("license:")]
        stated = tags[0].partition(":")[2] if tags else None
    return stated if stated is None else str(stated)


def _check_room(plan: DownloadPlan) -> None:
    if plan.missing_bytes > plan.free_bytes:
        raise DownloadError(
            f"{plan.repo_id} needs {_gb(plan.missing_bytes)}, "
            f"and {plan.folder} has room for {_gb(plan.free_bytes)}"
        )


def _fetch_all(
    plan: DownloadPlan,
    place: Place,
    headers: dict[str, str],
    endpoint: str | None,
    on_progress: OnProgress,
    retry: Retry,
) -> None:
    done = sum(file.size for file in plan.files if file.name in plan.here)
    for file in plan.files:
        if file.name in plan.here:
            continue
        url = hf_hub_url(plan.repo_id, file.name, revision=plan.commit, endpoint=endpoint)

        def report(here: int, name: str = file.name, before: int = done) -> None:
            on_progress(DownloadProgress(name, before + here, plan.total_bytes))

        with _alone(place, file):
            if not (place.has(file) or place.adopt(file)):
                fetch(url, headers, file, place.partial(file), report, retry)
                place.keep(file)
        report(file.size)
        done += file.size


@contextmanager
def _alone(place: Place, file: RemoteFile) -> Iterator[None]:
    lock = place.lock(file)
    for path in (lock, place.partial(file)):
        path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(lock, timeout=_LOCK_SECONDS))
        except TimeoutError:
            raise DownloadError(f"{file.name} is being downloaded by another run") from None
        yield


def _free_bytes(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _silent(progress: DownloadProgress) -> None:
    """Nobody looks."""


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
