"""A tiny model and a folder of clips."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.training.data.movies import moving, write_captioned

import mochi
from mochi.pipeline.pipeline import Pipeline
from mochi.training.data.buckets import Bucket
from mochi.training.data.plan import Cutting
from mochi.training.data.prepare import Captioning, prepare
from mochi.training.data.report import Report

TINY = Bucket(13, 32, 32)
COLOURS = {"red": (220, 40, 40), "blue": (40, 40, 220), "white": (200, 200, 200)}
Prepare = Callable[..., Report]


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return mochi.load(tiny_model)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Three good clips with captions."""
    folder = tmp_path / "clips"
    for name, colour in COLOURS.items():
        caption = f"a {name} square moves right"
        write_captioned(folder / f"{name}.mp4", moving(colour=colour), caption)
    return folder


@pytest.fixture
def run(clips: Path, tmp_path: Path, pipe: Pipeline) -> Prepare:
    """Prepares the clips into `data`."""

    def call(
        out: str = "data",
        buckets: tuple[Bucket, ...] = (TINY,),
        captioning: Captioning | None = None,
        model: Pipeline | None = None,
        workers: int = 2,
        **settings: object,
    ) -> Report:
        cutting = Cutting(buckets, **{"fps": 12, **settings})  # type: ignore[arg-type]
        chosen = model or pipe
        return prepare(
            clips, tmp_path / out, chosen, cutting, captioning=captioning, workers=workers
        )

    return call


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 4,000 bytes: what a full disk looks like, without filling one."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
