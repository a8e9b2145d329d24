"""What one video is cut into: decided once, kept beside the samples, read again after a stop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mochi.core.errors import RequestError, VideoError, WeightsError
from mochi.core.sizes import whole
from mochi.training.data.buckets import Bucket, choose_bucket
from mochi.training.data.clips import Clip, Skipped
from mochi.training.data.folder import VERSION, DataFolder, key_of, read_object, write_whole
from mochi.video.formats import check_fps
from mochi.video.spans import Span, Survey, survey


@dataclass(frozen=True)
class Cutting:
    """How videos become samples.

    Attributes:
        buckets: sizes and lengths; each clip goes to the one that suits it.
        fps: frames per second that videos are resampled to.
        scenes: cut where the scene changes.
        take: clips from each video (or scene), spread evenly, the first from its beginning.
        upscale: videos smaller than a bucket are enlarged rather than left out.

    Raises:
        RequestError: a value breaks its rule.
    """

    buckets: tuple[Bucket, ...]
    fps: int = 30
    scenes: bool = False
    take: int = 1
    upscale: bool = False

    def __post_init__(self) -> None:
        if not self.buckets:
            raise RequestError("buckets", self.buckets, "is empty", "37x480x848")
        check_fps(self.fps)
        whole("take", self.take)

    @property
    def facts(self) -> list[object]:
        """Everything that decides what a video is cut into."""
        buckets = [str(bucket) for bucket in self.buckets]
        return [VERSION, buckets, self.fps, self.scenes, self.take, self.upscale]


@dataclass(frozen=True)
class Plan:
    """What becomes of one video.

    Attributes:
        spans: parts that become samples, in order, without overlap.
        skipped: scenes that do not, by their first frame, and why.
        notes: what a user should know about the video.
    """

    spans: tuple[Span, ...]
    skipped: tuple[tuple[int, str], ...] = ()
    notes: tuple[str, ...] = ()


def plan_of(clip: Clip, sha256: str, cutting: Cutting, folder: DataFolder) -> Plan:
    """The plan that was kept, or else a new one, which is kept.

    Raises:
        VideoError: the video cannot be read, or gives no sample.
        OutputError: the disk refuses.
    """
    path = folder.source(key_of(sha256, *cutting.facts))
    kept = _read(path)
    if kept is not None:
        return kept
    plan = make_plan(clip.path, cutting)
    write_whole(path, (json.dumps(asdict(plan)) + "\n").encode())
    return plan


def make_plan(path: Path, cutting: Cutting) -> Plan:
    """Look through a video and choose its parts.

    Raises:
        VideoError: it cannot be read, or gives no sample; says why.
    """
    longest = max(bucket.frames for bucket in cutting.buckets)
    whole_video = cutting.scenes or cutting.take > 1
    seen = survey(path, cutting.fps, limit=None if whole_video else longest, cut=cutting.scenes)
    spans: list[Span] = []
    skipped: list[tuple[int, str]] = []
    for start, frames in seen.scenes:
        try:
            spans += _spans(start, frames, seen, cutting)
        except VideoError as error:
            skipped.append((start, str(error)))
    if not spans:
        raise VideoError(skipped[0][1] if len(skipped) == 1 else _none(skipped))
    return Plan(tuple(spans), tuple(skipped), tuple(_notes(seen, cutting.fps)))


def _spans(start: int, frames: int, seen: Survey, cutting: Cutting) -> Iterator[Span]:
    bucket = choose_bucket(cutting.buckets, frames, seen.height, seen.width, cutting.upscale)
    count = min(cutting.take, frames // bucket.frames)
    for index in range(count):
        shift = (frames - bucket.frames) * index // max(1, count - 1)
        yield Span(start + shift, bucket.frames, bucket.height, bucket.width)


def _none(skipped: Sequence[tuple[int, str]]) -> str:
    return f"none of its {len(skipped)} scenes can be used; the first is {skipped[0][1]}"


def _notes(seen: Survey, fps: int) -> Iterator[str]:
    if seen.uneven:
        yield f"variable frame rate, resampled to {fps} by its times"
    elif round(seen.fps, 2) != fps:
        yield f"resampled from {seen.fps:g} to {fps} frames per second"
    if seen.rotated:
        yield "turned upright as the file says"
    if seen.transfer:
        yield f"HDR ({seen.transfer}), brought to the range of an ordinary screen"


def _read(path: Path) -> Plan | None:
    """A plan from its file; None where there is none that can be read."""
    try:
        content = read_object(path)
        spans = tuple(Span(**span) for span in content["spans"])
        skipped = tuple((int(start), str(why)) for start, why in content["skipped"])
        return Plan(spans, skipped, tuple(map(str, content["notes"])))
    except (WeightsError, KeyError, TypeError, ValueError):
        return None


def skips_of(clip: Clip, plan: Plan) -> list[Skipped]:
    """The scenes of a video that were left out."""
    return [Skipped(f"{clip.name}@{start}", why) for start, why in plan.skipped]
