"""Other programs that watch trainings: TensorBoard and Weights & Biases, both optional."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from mochi.core.errors import MochiError
from mochi.training.events import (
    Finished,
    Sampled,
    Started,
    StepDone,
    TrainingEvent,
    Validated,
)

_FOLDER = "tensorboard"


def figures(event: TrainingEvent) -> Iterator[tuple[str, float]]:
    """The numbers in an event by their names in these programs."""
    if isinstance(event, StepDone):
        yield "train/loss", event.loss
        yield "train/lr", event.lr
        yield "train/grad_norm", event.grad_norm
        yield "train/seconds", event.seconds
        for name, value in event.terms.items():
            yield f"train/{name}", value
    elif isinstance(event, Validated):
        yield "validation/loss", event.loss
        for sigma, loss in event.losses.items():
            yield f"validation/sigma_{sigma:g}", loss


class TensorBoard:
    """Writes TensorBoard's files below the training's folder: a reporter.

    Raises:
        MochiError: the package that writes them is not installed.
    """

    def __init__(self) -> None:
        self._module = _optional("tensorboardX", "tensorboard")
        self._writer: Any = None

    def __call__(self, event: TrainingEvent) -> None:
        """Take one event."""
        if isinstance(event, Started):
            self.close()
            # What an earlier run told about later steps is to be forgotten.
            purge = event.done + 1 if event.done else None
            self._writer = self._module.SummaryWriter(str(event.folder / _FOLDER), purge_step=purge)
            self._writer.add_text("settings", _markdown(event.settings), event.done)
        if self._writer is None:
            return
        for name, value in figures(event):
            assert isinstance(event, (StepDone, Validated))
            self._writer.add_scalar(name, value, event.step)
        if isinstance(event, Sampled):
            self._add_samples(event)
        if isinstance(event, Finished):
            self.close()

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add_samples(self, event: Sampled) -> None:
        from mochi.training.reports.pictures import small_frames

        for place, path in enumerate(event.paths):
            frames = small_frames(path)
            picture_HWC = frames[len(frames) // 2]
            self._writer.add_image(f"samples/{place}", picture_HWC, event.step, dataformats="HWC")


class WeightsAndBiases:
    """Sends a training to Weights & Biases, or keeps it for later (`mode="offline"`): a reporter.

    Args:
        project: its name there.
        mode: `online`, `offline` or `disabled`; None leaves it to that program's own settings.

    Raises:
        MochiError: the package is not installed.
    """

    def __init__(self, project: str, mode: str | None = None):
        self._module = _optional("wandb", "wandb")
        self._project, self._mode = project, mode
        self._run: Any = None

    def __call__(self, event: TrainingEvent) -> None:
        """Take one event."""
        if isinstance(event, Started):
            self.close()
            self._run = self._module.init(
                project=self._project,
                name=event.folder.name,
                id=_run_id(event.folder),
                resume="allow",
                dir=str(event.folder),
                mode=self._mode,
                config={**event.settings, "facts": dict(event.facts)},
            )
        if self._run is None:
            return
        values: dict[str, Any] = dict(figures(event))
        if isinstance(event, Sampled):
            pairs = zip(event.paths, event.prompts, strict=True)
            values = {
                f"samples/{place}": self._module.Video(str(path), caption=prompt, format="mp4")
                for place, (path, prompt) in enumerate(pairs)
            }
        if values:
            assert isinstance(event, (StepDone, Validated, Sampled))
            self._run.log(values, step=event.step)
        if isinstance(event, Finished):
            self.close()

    def close(self) -> None:
        """Send what is left."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def _run_id(folder: Path) -> str:
    """The same for every run that goes on in this folder, kept there."""
    import secrets

    path = folder / "wandb-id.txt"
    if path.is_file():
        return path.read_text("ascii").strip()
    made = secrets.token_hex(8)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(made + "\n", "ascii")
    return made


def _optional(module: str, extra: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError:
        raise MochiError(
            f"{module} is not installed; `pip install mochi-video[{extra}]` brings it"
        ) from None


def _markdown(settings: Mapping[str, Any]) -> str:
    lines = ["| setting | value |", "|---|---|"]
    for section, values in settings.items():
        if isinstance(values, Mapping):
            lines += [f"| {section}.{name} | {value} |" for name, value in values.items()]
    return "\n".join(lines)
