"""From a folder of clips and captions to a folder that a trainer reads.

Every finished piece (a plan, a caption's features, a sample) is a file that appears whole, under a
name that depends on nothing but its content and the settings. So a run that was stopped at any
moment goes on when it is started again, and ends with the same samples.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mochi.core.errors import OutputError, VideoError, WeightsError
from mochi.core.events import CancelToken
from mochi.pipeline.pipeline import Pipeline
from mochi.training.data.buckets import Bucket
from mochi.training.data.clips import Clip, Found, Skipped, find_clips
from mochi.training.data.dataset import Sample
from mochi.training.data.decoders import Decoded, Decoders, Ended
from mochi.training.data.encoding import (
    ClipEncoder,
    encode_captions,
    frames_hash,
    part_fingerprint,
    save_sample,
)
from mochi.training.data.folder import (
    DATASET,
    REPORT,
    SPACE,
    VERSION,
    DataFolder,
    key_of,
    refuse_foreign,
)
from mochi.training.data.plan import Cutting, Plan, skips_of
from mochi.training.data.report import Report, save_contact_sheet, save_strip
from mochi.video.output import disk_errors
from mochi.video.spans import Span
from mochi.weights.lora_files import sha256

Stage = Literal["hash", "text", "clips"]


@dataclass(frozen=True)
class Prepared:
    """So many files (captions, clips) of a stage are done.

    Attributes:
        stage: `hash` reads files, `text` encodes captions, `clips` encodes videos.
        name: of the one that was just done, where it has one.
    """

    stage: Stage
    done: int
    total: int
    name: str = ""


OnPrepared = Callable[[Prepared], None]


@dataclass(frozen=True)
class Captioning:
    """Where captions come from besides the text files beside the clips.

    Attributes:
        table: a CSV or JSONL file; None looks for one in the folder.
        common: the caption of clips that have none of their own.
    """

    table: Path | None = None
    common: str | None = None


@dataclass
class _Work:
    """One preparation on its way."""

    folder: DataFolder
    pipe: Pipeline
    cutting: Cutting
    vae: str
    check: Callable[[], object]
    tell: OnPrepared
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    plans: dict[str, Plan] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    made: int = 0

    def key(self, clip: Clip, span: Span) -> str:
        """The name of a sample's files."""
        size = [span.start, span.frames, span.height, span.width]
        return key_of(VERSION, self.hashes[clip.name], size, self.cutting.fps, self.vae)

    def is_done(self, clip: Clip, span: Span) -> bool:
        """Whether a sample is there."""
        return self.folder.sample(self.key(clip, span)).is_file()


def prepare(
    clips: str | os.PathLike[str],
    out: str | os.PathLike[str],
    pipe: Pipeline,
    cutting: Cutting,
    *,
    captioning: Captioning | None = None,
    workers: int = 2,
    on_event: OnPrepared = lambda event: None,
    cancel: CancelToken | None = None,
) -> Report:
    """Encode clips and captions with a model's VAE and text encoder.

    Args:
        clips: a folder, looked through to its depths, or one video.
        out: the prepared folder; one that was begun is gone on with.
        pipe: the model.
        cutting: sizes, rate, scenes.
        captioning: see there.
        workers: threads that decode.
        on_event: hears how far it is.
        cancel: stops the run; what is finished stays.

    Returns:
        What was used, what was not and why; also in `report.json` and `contact_sheet.png`.

    Raises:
        RequestError: there are no videos.
        VideoError: none can be used; the report says why.
        OutputError: the folder is foreign, in use, or the disk refuses; what is finished stays.
        WeightsError: the folder was prepared with another model.
        DoesNotFitError: not enough memory for the largest bucket.
        Cancelled: somebody asked.
    """
    start, root = time.perf_counter(), Path(out)
    given = captioning or Captioning()
    refuse_foreign(root)
    found = find_clips(Path(clips), given.table, given.common, leave=root)
    check = (cancel or CancelToken()).check
    with _locked(root):
        folder = DataFolder(root)
        folder.tidy()
        vae = _claim(folder, pipe, cutting)
        work = _Work(folder, pipe, cutting, vae, check, on_event, list(found.skipped))
        chosen = _without_copies(work, found)
        if chosen:
            _encode(work, chosen, workers)
        report = _finish(work, chosen, start)
    if not report.samples:
        first = report.skipped[0]
        raise VideoError(
            f"{clips}: no sample could be made; {root / REPORT} says why "
            f"(the first: {first.name} {first.reason})"
        )
    return report


def _claim(folder: DataFolder, pipe: Pipeline, cutting: Cutting) -> str:
    """Write what the folder is, or see that it is the same; returns the VAE's fingerprint."""
    vae = part_fingerprint(pipe.files, "encoder")
    facts = {
        "version": VERSION,
        "space": SPACE,
        "model": pipe.card.name,
        "vae": vae,
        "text_encoder": part_fingerprint(pipe.files, "t5"),
        "settings": {
            "buckets": [str(bucket) for bucket in cutting.buckets],
            "fps": cutting.fps,
            "scenes": cutting.scenes,
            "take": cutting.take,
            "upscale": cutting.upscale,
        },
    }
    if (folder.root / DATASET).exists():
        before = folder.read_json(DATASET)
        for name in ("version", "vae", "text_encoder"):
            if before.get(name) != facts[name]:
                what = name.replace("_", " ").replace("vae", "VAE")
                raise WeightsError(
                    f"was made with another {what}; choose a new folder", folder.root
                )
    folder.write_json(DATASET, facts)
    return vae


def _without_copies(work: _Work, found: Found) -> list[Clip]:
    """Clips whose files are not the same as one before them."""
    first: dict[str, Clip] = {}
    pool = ThreadPoolExecutor(max_workers=2)
    try:
        hashes = pool.map(_hash, found.clips)
        for done, (clip, hashed) in enumerate(zip(found.clips, hashes, strict=True), 1):
            work.check()
            if isinstance(hashed, WeightsError):
                work.skipped.append(Skipped(clip.name, str(hashed)))
            elif hashed in first:
                other = first[hashed]
                also = "" if other.caption == clip.caption else ", with another caption"
                work.skipped.append(Skipped(clip.name, f"is the same file as {other.name}{also}"))
            else:
                first[hashed], work.hashes[clip.name] = clip, hashed
            work.tell(Prepared("hash", done, len(found.clips), clip.name))
    finally:
        pool.shutdown(cancel_futures=True)
    return list(first.values())


def _hash(clip: Clip) -> str | WeightsError:
    try:
        return sha256(clip.path)
    except WeightsError as error:
        return error


def _encode(work: _Work, clips: Sequence[Clip], workers: int) -> None:
    captions = list(dict.fromkeys(clip.caption for clip in clips))

    def text_done(done: int, total: int) -> None:
        work.check()
        work.tell(Prepared("text", done, total))

    cut = encode_captions(work.pipe, work.folder, captions, text_done)
    work.notes += [(clip.name, cut[clip.caption]) for clip in clips if clip.caption in cut]
    largest = max(work.cutting.buckets, key=lambda it: it.frames * it.height * it.width)
    encoder = ClipEncoder(work.pipe, largest.size)
    decoders = Decoders(work.folder, work.cutting, work.hashes, work.is_done, workers)
    done = 0
    with closing(decoders.run(clips, work.check)) as results:  # its threads end with the block
        for result in results:
            if isinstance(result, Decoded):
                _encode_clip(work, encoder, result)
            else:
                done += 1
                _take_plan(work, result)
                work.tell(Prepared("clips", done, len(clips), result.clip.name))
    encoder.close()


def _encode_clip(work: _Work, encoder: ClipEncoder, part: Decoded) -> None:
    key, name = work.key(part.clip, part.span), part.clip.name
    try:
        latents = encoder.encode(part.frames_THWC, work.check)
    except VideoError as error:
        work.skipped.append(Skipped(f"{name}@{part.span.start}", str(error)))
        work.failed.add(key)
        return
    save_strip(work.folder, key, part.frames_THWC)
    save_sample(work.folder, key, name, part.frames_THWC, latents)
    work.made += 1


def _take_plan(work: _Work, result: Ended) -> None:
    name = result.clip.name
    if isinstance(result.plan, VideoError):
        reason = str(result.plan).removeprefix(f"{result.clip.path}: ")
        work.skipped.append(Skipped(name, reason))
        return
    work.plans[name] = result.plan
    work.skipped += skips_of(result.clip, result.plan)
    work.notes += [(name, note) for note in result.plan.notes]


def _finish(work: _Work, clips: Sequence[Clip], start: float) -> Report:
    """The index, the report and the picture, from what is on the disk."""
    samples = _samples(work, clips)
    work.folder.write_index(sample.to_dict() for sample in samples)
    if samples:
        save_contact_sheet(work.folder, samples)
    seconds = time.perf_counter() - start
    report = Report(
        work.folder.root,
        tuple(samples),
        tuple(sorted(work.skipped)),
        tuple(sorted(work.notes)),
        work.made,
        seconds,
    )
    work.folder.write_json(REPORT, report.to_dict())
    return report


def _samples(work: _Work, clips: Sequence[Clip]) -> list[Sample]:
    """All samples in order; of those that show the same frames, the first."""
    samples: list[Sample] = []
    shown: dict[str, str] = {}
    for clip in clips:
        plan = work.plans.get(clip.name)
        for span in plan.spans if plan else ():
            key = work.key(clip, span)
            if key in work.failed:
                continue
            whole = len(plan.spans) == 1 and not span.start if plan else True
            name = clip.name if whole else f"{clip.name}@{span.start}"
            other = shown.setdefault(frames_hash(work.folder, key), name)
            if other != name:
                work.skipped.append(Skipped(name, f"shows the same frames as {other}"))
                continue
            samples.append(_sample(work, clip, span, name))
    return samples


def _sample(work: _Work, clip: Clip, span: Span, name: str) -> Sample:
    bucket = Bucket(span.frames, span.height, span.width)
    return Sample(
        name=name,
        sha256=work.key(clip, span),
        caption=clip.caption,
        bucket=str(bucket),
        frames=span.frames,
        height=span.height,
        width=span.width,
        seconds=round(span.frames / work.cutting.fps, 3),
    )


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One run at a time in a folder; the lock goes with the process.

    Raises:
        OutputError: another run is writing there, or the folder cannot be made.
    """
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{root}: another run is writing here") from None
        yield
    finally:
        os.close(handle)
