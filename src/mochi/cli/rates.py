"""How fast this machine is: measured once, and kept in the user's cache."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from mochi.memory.rates import Rates
    from mochi.pipeline.pipeline import Pipeline

_FILE = "rates.json"


def cache_folder() -> Path:
    """Where programs of this user keep what they can make again."""
    if sys.platform == "win32":
        given = os.environ.get("LOCALAPPDATA")
        return Path(given or Path.home() / "AppData" / "Local") / "mochi"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mochi"


def add_rates(pipe: Pipeline) -> None:
    """Let a pipeline's plans tell the time; where this machine was not measured yet, it is now.

    Raises:
        WeightsError: a file of the model is missing or unusable.
    """
    from mochi.pipeline.parts import PARTS

    dtypes = {
        pipe.parts.blueprint(name).dtype for name, part in PARTS.items() if part in pipe.files.parts
    }
    pipe.budget.rates |= rates(pipe.device, dtypes, pipe.files.dit[0])


def rates(device: torch.device, dtypes: Iterable[torch.dtype], file: Path) -> dict[str, Rates]:
    """Rates by the name of the dtype.

    Args:
        device: where the networks run.
        dtypes: what they compute in.
        file: a large one on the disk with the model.
    """
    from mochi.memory.rates import Rates, measure_rates

    path = cache_folder() / _FILE
    known, found = _read(path), {}
    for dtype in dtypes:
        key = _key(device, dtype)
        rate = Rates.from_dict(known.get(key, {}))
        if rate is None:
            rate = measure_rates(device, dtype, file)
            known[key] = rate.to_dict()
            _write(path, known)
        found[str(dtype)] = rate
    return found


def _key(device: torch.device, dtype: torch.dtype) -> str:
    """What a measurement holds for."""
    import torch

    from mochi.pipeline.survey import device_name

    what = [device_name(str(device)), f"{torch.get_num_threads()} threads", torch.__version__]
    return ", ".join([*what, str(dtype).removeprefix("torch.")])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, dict)}


def _write(path: Path, content: dict[str, Any]) -> None:
    """Keep it if it can be kept; a read-only home is no reason to fail."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(part, path)
