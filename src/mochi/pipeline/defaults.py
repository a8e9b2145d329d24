"""What a model does when nothing else is said.

A model card `mochi.json` beside the weights says it; a folder without one is the published model.
```json
{"name": "nano", "licence": "Apache-2.0", "dtype": "float32",
 "defaults": {"frames": 25, "height": 64, "width": 64, "fps": 12, "steps": 20, "guidance": 3.0}}
```
Every key is optional; what is left out is the published model's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mochi.core.errors import RequestError, WeightsError
from mochi.pipeline.settings import Settings, make_request


@dataclass(frozen=True)
class ModelCard:
    """Name, licence and default settings of one model.

    Attributes:
        dtype: what the networks compute in unless somebody says otherwise; `auto` is as stored.
    """

    name: str = "mochi-1"
    licence: str = ""
    dtype: str = "auto"
    settings: Settings = Settings()


def read_card(path: Path | None) -> ModelCard:
    """The card at `path`, or the published model's where there is none.

    Raises:
        WeightsError: the card is no JSON object, or a default in it breaks its rule.
    """
    if path is None:
        return ModelCard()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"the model card cannot be read: {error}", path) from error
    if not isinstance(content, dict) or not isinstance(content.get("defaults", {}), dict):
        raise WeightsError("the model card is no JSON object with an object of defaults", path)
    try:
        settings = _settings(content.get("defaults", {}))
    except RequestError as error:
        raise WeightsError(f"a default in the model card is wrong: {error}", path) from error
    return ModelCard(
        name=str(content.get("name", ModelCard.name)),
        licence=str(content.get("licence", "")),
        dtype=str(content.get("dtype", ModelCard.dtype)),
        settings=settings,
    )


def _settings(given: Mapping[str, Any]) -> Settings:
    legal = [field.name for field in fields(Settings)]
    for key, value in given.items():
        if key not in legal:
            raise RequestError(key, value, "is no default of a model", ", ".join(legal))
    base = Settings()
    if given.get("steps", base.steps) != base.steps and "linear_steps" not in given:
        base = Settings(linear_steps=None)
    request = make_request(dict(given) | {"prompt": "any", "seed": 0}, defaults=base)
    checked = asdict(request)
    return Settings(**{name: checked[name] for name in legal})
