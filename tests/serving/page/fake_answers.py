"""What the fake server says: a schema like nano's, runs, pictures."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from tests.serving.page.fake_server import World

PAGE = Path(__file__).resolve().parents[3] / "src" / "mochi" / "serving" / "page"
CLIPS = sorted((PAGE / "examples").glob("*.mp4"))
MODEL = {"owner": "genmoai", "name": "mochi-1"}
VERSION = "5c" * 32
NOW = time.time()


def _number(order: int, kind: str, low: float, high: float, default: Any, text: str) -> dict:
    rule = {"type": kind, "minimum": low, "maximum": high, "default": default}
    return {**rule, "x-order": order, "description": text}


INPUT = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {"type": "string", "x-order": 0, "minLength": 1, "maxLength": 10000},
        "seed": {
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}],
            "x-order": 7,
            "description": "Drawn when absent",
        },
        "num_frames": _number(1, "integer", 1, 163, 25, "Counts of 6k + 1"),
        "num_inference_steps": _number(2, "integer", 1, 200, 16, "More are slower and finer"),
        "guidance_scale": _number(3, "number", 0, 10, 2.0, "How closely the prompt is followed"),
        "fps": _number(4, "integer", 1, 60, 12, "Of the file"),
        "width": _number(5, "integer", 16, 848, 64, "") | {"multipleOf": 16},
        "height": _number(6, "integer", 16, 480, 64, "") | {"multipleOf": 16},
        "negative_prompt": {"type": "string", "x-order": 8, "default": ""},
        "solver": {"allOf": [{"$ref": "#/components/schemas/solver"}], "x-order": 9},
        "threshold": _number(10, "number", 0.001, 0.999, 0.1, "Of the schedule's linear part"),
        "step_cache": {
            "anyOf": [
                {"type": "string", "enum": ["off", "first-block", "tea"]},
                {"type": "string", "pattern": "^(first-block|tea):0?\\.[0-9]*[1-9]$"},
            ],
            "default": "off",
            "x-order": 11,
            "x-advanced": True,
        },
        "loras": {
            "type": "array",
            "items": {
                "anyOf": [
                    {"type": "string", "enum": ["watercolour", "night"]},
                    {"type": "string", "pattern": "^(watercolour|night):[0-9.]+$"},
                ]
            },
            "x-scales": {"watercolour": 0.8, "night": 1.0},
            "x-order": 12,
            "x-advanced": True,
            "description": "Adapters from the server's list",
        },
    },
}
INPUT["properties"]["solver"]["default"] = "euler"
SOLVER = {"type": "string", "enum": ["euler", "ab2", "dpmpp_2m"]}
SCHEMAS = {"Input": INPUT, "solver": SOLVER, "Output": {"type": "string", "format": "uri"}}
README = """# Mochi 1

A prompt becomes a video. <script>alert(1)</script>

| frames | seconds |
|---|---|
| 25 | 1.9 |

- runs on any machine
- `mochi serve` and a [link](https://example.org/)

```sh
mochi generate "a red circle"
```
"""


def stamp(seconds_ago: float = 0.0) -> str:
    """ISO 8601 with microseconds."""
    when = time.time() - seconds_ago
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when))
    return f"{whole}.{int(when % 1 * 1e6):06d}Z"


@dataclass
class Run:
    """A prediction and its events."""

    id: str
    input: dict[str, Any]
    steps: int
    batch: str | None
    created_at: str
    clip: Path
    status: str = "starting"
    error: str | None = None
    cancelled: bool = False
    is_shared: bool = False
    started: float = field(default_factory=time.time)
    metrics: dict[str, Any] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)

    @classmethod
    def new(cls, number: int, values: dict[str, Any], batch: str | None, steps: int) -> Run:
        full = {"seed": 1000 + number, **values}
        clip = CLIPS[number % len(CLIPS)]
        return cls(f"run{number:023d}", full, steps, batch, stamp(), clip)

    @property
    def frames(self) -> int:
        return int(self.input.get("num_frames", 25))

    @property
    def output(self) -> str:
        return f"http://public.example/v1/files/{self.id}/download?sig=1"

    @property
    def variants(self) -> dict[str, str]:
        return {
            name: f"{self.output}&variant={name}" for name in ("gif", "thumbnail", "last_frame")
        }

    def say(self, event: str, data: dict[str, Any]) -> None:
        if event == "phase":
            self.status = "processing"
        if event == "log":
            self.logs.append(data["line"])
        number = len(self.events) + 1
        self.events.append(f"id: {number}\nevent: {event}\ndata: {json.dumps(data)}\n\n")

    def finish(self, status: str, error: str | None = None) -> None:
        self.status, self.error = status, error
        seconds = round(time.time() - self.started, 2)
        self.metrics = {"predict_time": seconds, "frames": self.frames, "fps": 12, "width": 64}
        self.metrics |= {"height": 64, "steps": self.steps, "price": 0.0004}

    def to_dict(self) -> dict[str, Any]:
        done = self.status == "succeeded"
        return {
            "id": self.id,
            "model": "genmoai/mochi-1",
            "version": VERSION,
            "status": self.status,
            "input": self.input,
            "output": self.output if done else None,
            "variants": self.variants if done else None,
            "error": self.error,
            "logs": "\n".join(self.logs),
            "batch": self.batch,
            "shared": self.is_shared,
            "created_at": self.created_at,
            "started_at": None,
            "completed_at": None,
            "metrics": self.metrics,
        }


def listing(runs: Iterable[Run], query: dict[str, str]) -> dict[str, Any]:
    """Newest first, a page at a time."""
    newest = sorted(runs, key=lambda run: run.created_at, reverse=True)
    limit, start = int(query.get("limit", 100)), int(query.get("cursor", 0))
    end = start + limit
    more = f"http://public.example/v1/predictions?limit={limit}&cursor={end}"
    results = [run.to_dict() for run in newest[start:end]]
    return {"next": more if end < len(newest) else None, "previous": None, "results": results}


def estimate(values: dict[str, Any], price: float | None) -> dict[str, Any]:
    """Seconds in proportion to frames and steps; what is above 100 frames does not fit."""
    frames, steps = int(values.get("num_frames", 25)), int(values.get("num_inference_steps", 16))
    seconds = frames * steps * 0.004
    return {
        "input": values,
        "notes": [],
        "seconds": {"p50": seconds, "p90": seconds * 1.3},
        "memory_bytes": frames * 8_400_000,
        "memory_available_bytes": 800_000_000,
        "fits": frames <= 100,
        "price": {"amount": seconds * price, "currency": "USD"} if price else None,
        "queue": {"position": 1, "of": 1, "eta_seconds": seconds},
    }


def server(world: World) -> dict[str, Any]:
    """`GET /v1/server`."""
    runner = {"name": "cpu-0", "device": "cpu", "model": "genmoai/mochi-1"}
    return {
        "version": "0.1.0",
        "auth": world.token is not None,
        "queue": {"waiting": world.ahead, "running": 0, "limit": 100},
        "runners": [runner | {"state": world.runner_state, "reason": world.runner_reason}],
        "trouble": world.trouble,
        "price_per_hour": 1.0,
        "currency": "USD",
        "webhooks": False,
        "limits": {"prompt_tokens": 256, "frames": 163, "upload_bytes": 10**8, "batch": 100},
    }


def fixed(parts: list[str]) -> Any:
    """Answers that never change."""
    schema = {"openapi": "3.1.0", "components": {"schemas": SCHEMAS}}
    version = {"id": VERSION, "created_at": stamp(86400), "cog_version": "0.16"}
    version["openapi_schema"] = schema
    words = "A prompt becomes a video."
    model = {**MODEL, "description": words, "latest_version": version, "licence": "Apache-2.0"}
    nano = {"model": "genmoai/mochi-1", "frames": 25, "height": 64, "width": 64, "steps": 16}
    times = {"count": 12, "p10_seconds": 1.4, "p50_seconds": 1.6, "p90_seconds": 2.2}
    known = {
        "models": _page([model]),
        "models/genmoai/mochi-1": model,
        "models/genmoai/mochi-1/versions": _page([version]),
        "models/genmoai/mochi-1/readme": README,
        "presets": {"results": [_preset("draft", 8, 1.1), _preset("standard", 16, 1.6)]},
        "runtimes": {"results": [{**nano, **times, "price": 0.0004}]},
    }
    return known.get("/".join(parts))


def _page(results: list[Any]) -> dict[str, Any]:
    return {"next": None, "previous": None, "results": results}


def _preset(name: str, steps: int, seconds: float) -> dict[str, Any]:
    values = {"num_inference_steps": steps, "guidance_scale": 2.0}
    cost = {"seconds": seconds, "memory_bytes": 210_000_000, "price": seconds / 3600}
    return {"name": name, "title": name.capitalize(), "input": values, **cost}


def preview(share: float) -> str:
    """Five frames side by side: a circle that comes out of a blur."""
    strip = Image.new("RGB", (5 * 64, 64), (12, 14, 13))
    draw = ImageDraw.Draw(strip)
    for frame in range(5):
        left = frame * 64 + 44 - frame * 9
        draw.ellipse((left - 9, 24, left + 9, 42), fill=(220, 60, 50))
    blurred = strip.filter(ImageFilter.GaussianBlur(14 * (1 - share)))
    buffer = io.BytesIO()
    blurred.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def media(run: Run, variant: str | None) -> tuple[bytes, str]:
    """The video, or a picture of it."""
    if variant is None:
        return run.clip.read_bytes(), "video/mp4"
    if variant == "thumbnail":
        return run.clip.with_suffix(".webp").read_bytes(), "image/webp"
    kind = "GIF" if variant == "gif" else "PNG"
    buffer = io.BytesIO()
    Image.open(run.clip.with_suffix(".webp")).convert("RGB").save(buffer, kind)
    return buffer.getvalue(), f"image/{kind.lower()}"
