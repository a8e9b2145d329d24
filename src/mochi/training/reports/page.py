"""The run page: one HTML file that shows a training, with nothing from anywhere else.

It is written anew every few seconds and whenever there is something to look at, always whole.
"""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mochi.training.data.folder import replace_by, write_whole
from mochi.training.events import Sampled, StepDone, TrainingEvent
from mochi.training.reports.history import History, Story
from mochi.training.reports.pictures import Thumbnails, grid
from mochi.training.reports.svg import COLOURS, Line, chart, smooth

NAME, GRID = "index.html", "grid.png"
_SECONDS_BETWEEN = 10.0
_REFRESH_SECONDS = 15
_MOST_ROWS = 12  # of samples: the first, and the last ones
_SMOOTHED = 0.02  # of all steps
_STYLE = """
:root{color-scheme:light dark;--ink:#1c1c1c;--back:#fff;--faint:#6b7280;--rule:#e5e7eb}
@media(prefers-color-scheme:dark){:root{--ink:#e5e7eb;--back:#15171a;--faint:#9ca3af;--rule:#333}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);margin:2rem auto;
max-width:96rem;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1rem}
figure{margin:0}figcaption{color:var(--faint)}svg{width:100%;height:auto}
svg text{font:11px system-ui,sans-serif;fill:var(--faint)}
.grid{stroke:var(--rule)}.line{fill:none;stroke-width:2}.faint{fill:none;opacity:.3}
progress{width:100%;height:.6rem}table{border-collapse:collapse}
td,th{padding:.2rem .6rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}
.samples{overflow-x:auto}.samples img{display:block;border-radius:4px}
pre{overflow-x:auto}.faded{color:var(--faint)}
""".strip().replace("\n", "")


class Page:
    """Writes the run page and the picture of all samples: a reporter that follows a history.

    Args:
        history: told before this one.
        clock: seconds, for how often it writes.
    """

    def __init__(self, history: History, clock: Callable[[], float] = time.monotonic):
        self._history, self._clock = history, clock
        self._pictures = Thumbnails()
        self._written = -_SECONDS_BETWEEN

    def __call__(self, event: TrainingEvent) -> None:
        """Write, if it is time.

        Raises:
            OutputError: the disk refuses.
        """
        seldom = isinstance(event, StepDone)
        if seldom and self._clock() - self._written < _SECONDS_BETWEEN:
            return
        story = self._history.story
        if story.started is None:
            return
        folder = story.started.folder
        write_whole(folder / NAME, page_text(story, self._pictures).encode())
        if isinstance(event, Sampled):
            self._save_grid(folder, story)
        self._written = self._clock()

    def _save_grid(self, folder: Path, story: Story) -> None:
        rows = [[self._pictures.still(path) for path in it.paths] for it in shown_rows(story)]
        sheet = grid(rows)
        if sheet is not None:
            replace_by(folder / GRID, lambda part: sheet.save(part, "PNG"))


def page_text(story: Story, pictures: Thumbnails) -> str:
    """The page."""
    assert story.started is not None
    title = f"Training: {story.started.folder.name}"
    running = story.finished is None
    refresh = f'<meta http-equiv="refresh" content="{_REFRESH_SECONDS}">' if running else ""
    body = "".join((_head(story, title), _charts(story), _samples(story, pictures), _about(story)))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{refresh}'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def shown_rows(story: Story) -> list[Sampled]:
    """The samples that are shown: the first ones made, and the latest."""
    if len(story.sampled) <= _MOST_ROWS:
        return list(story.sampled)
    return [story.sampled[0], *story.sampled[1 - _MOST_ROWS :]]


def _head(story: Story, title: str) -> str:
    started = story.started
    assert started is not None
    done = story.steps[-1].step if story.steps else started.done
    state = "finished" if story.finished else "running, or stopped"
    words = [f"step {done} of {started.steps}, {state}"]
    if story.last is not None:
        words.append(f"{story.last.seconds:.2f} s a step")
        if not story.finished:
            words.append(f"about {_duration(story.last.eta_seconds)} left")
    if story.steps:
        recent = [it.loss for it in story.steps[-50:]]
        words.append(f"loss {sum(recent) / len(recent):.4g} (mean of the last {len(recent)})")
    if story.validated:
        words.append(f"validation {story.validated[-1].loss:.4g}")
    notices = "".join(f'<p class="faded">{html.escape(it)}</p>' for it in story.notices[-5:])
    bar = f'<progress max="{started.steps}" value="{done}"></progress>'
    return f"<h1>{html.escape(title)}</h1>{bar}<p>{html.escape(' · '.join(words))}</p>{notices}"


def _charts(story: Story) -> str:
    assert story.started is not None
    last = story.started.steps
    steps = [it.step for it in story.steps]
    losses = [it.loss for it in story.steps]
    window = max(10, round(_SMOOTHED * len(steps)))
    drawn = [
        chart(
            "Loss of the training",
            [
                Line("", steps, losses, faint=True),
                Line(f"mean of about {window} steps", steps, smooth(losses, window)),
            ],
            last,
        ),
        chart("Loss on clips that are not trained on", list(_validation(story)), last),
        chart("Learning rate", [Line("", steps, [it.lr for it in story.steps])], last),
        chart(
            "Norm of the gradients", [Line("", steps, [it.grad_norm for it in story.steps])], last
        ),
    ]
    names = dict.fromkeys(name for step in story.steps for name in step.terms)
    for name in names:
        values = [step.terms.get(name, float("nan")) for step in story.steps]
        drawn.append(chart(name, [Line("", steps, smooth(values, window))], last))
    return f'<section class="charts">{"".join(drawn)}</section>'


def _validation(story: Story) -> Iterator[Line]:
    """One line for each noise level, and their mean."""
    looks = story.validated
    for place, sigma in enumerate(sorted({sigma for look in looks for sigma in look.losses})):
        with_it = [look for look in looks if sigma in look.losses]
        xs = [look.step for look in with_it]
        colour = COLOURS[1 + place % (len(COLOURS) - 1)]
        yield Line(f"σ {sigma:g}", xs, [look.losses[sigma] for look in with_it], colour)
    if looks:
        yield Line("mean", [look.step for look in looks], [look.loss for look in looks])


def _samples(story: Story, pictures: Thumbnails) -> str:
    rows = shown_rows(story)
    if not rows:
        return ""
    prompts = zip(rows[-1].prompts, rows[-1].seeds, strict=True)
    heads = "".join(
        f'<th>{html.escape(prompt)} <span class="faded">seed {seed}</span></th>'
        for prompt, seed in prompts
    )
    lines = "".join(_sample_row(it, pictures) for it in reversed(rows))
    head = f"<tr><th>step</th>{heads}</tr>"
    return f'<h2>Samples</h2><div class="samples"><table>{head}{lines}</table></div>'


def _sample_row(looked: Sampled, pictures: Thumbnails) -> str:
    cells = "".join(
        f"<td>{_moving(pictures.moving(path), f'{prompt}, step {looked.step}')}</td>"
        for path, prompt in zip(looked.paths, looked.prompts, strict=True)
    )
    return f"<tr><th>{looked.step}</th>{cells}</tr>"


def _moving(address: str, what: str) -> str:
    if not address:
        return '<span class="faded">gone</span>'
    return f'<img src="{address}" alt="{html.escape(what, quote=True)}">'


def _about(story: Story) -> str:
    assert story.started is not None
    facts = _rows(story.started.facts)
    settings = "".join(
        f"<div><h3>{html.escape(str(section))}</h3><table>{_rows(values)}</table></div>"
        for section, values in story.started.settings.items()
        if isinstance(values, Mapping)
    )
    known = f"<h2>Facts</h2><table>{facts}</table>" if facts else ""
    return f'{known}<h2>Settings</h2><div class="charts">{settings}</div>' if settings else known


def _rows(values: Mapping[str, Any]) -> str:
    return "".join(
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(_text(value))}</td></tr>"
        for name, value in values.items()
    )


def _text(value: object) -> str:
    if isinstance(value, (Mapping, Sequence)) and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{whole} s"
