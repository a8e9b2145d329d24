"""A trained adapter as a folder: the three flavours that programs read, and a card.

```
ADAPTER/
    README.md                          the card: base, data, settings, samples
    NAME.safetensors                   the original's flavour
    NAME-comfyui.safetensors           ComfyUI's
    pytorch_lora_weights.safetensors   diffusers' and peft's
    samples/                           the last videos that the training made
```
The folder itself can be given to `mochi generate --lora`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mochi.core.errors import RequestError
from mochi.weights.lora import Lora
from mochi.weights.lora_write import Target, lora_file
from mochi.weights.write import PlannedFile, copied_file, text_file, write_files

CARD = "README.md"
DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Shown:
    """A video that the finished adapter made."""

    path: Path
    prompt: str
    seed: int


@dataclass(frozen=True)
class Card:
    """What an adapter says about itself.

    Attributes:
        base: name of the model that it changes.
        base_sha256: its fingerprint.
        steps: updates of the weights.
        data: facts about the clips, in words, by what they are: `samples`, `seconds of video`.
        settings: of the training, by section, as in the config file.
        results: figures at the end, by name, such as `loss`.
        samples: videos, which are copied.
        trigger: a caption that is typical of the clips, for the example; "" takes a sample's.
    """

    base: str
    base_sha256: str
    steps: int
    data: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, object] = field(default_factory=dict)
    samples: Sequence[Shown] = ()
    trigger: str = ""


def export_adapter(
    lora: Lora,
    folder: Path,
    card: Card,
    *,
    name: str = "adapter",
    depth: int | None = None,
    overwrite: bool = True,
) -> Path:
    """Write an adapter's folder, all of it or nothing.

    Args:
        lora: the matrices.
        folder: where they go.
        card: what is told about them.
        name: of the files of the original's and ComfyUI's flavour.
        depth: blocks of the base, where the adapter changes its text modulation.
        overwrite: replace an adapter of this name.

    Returns:
        The folder.

    Raises:
        RequestError: the name has other signs than letters, digits, `.`, `_` and `-`.
        OutputError: it exists, or the disk refuses; what was there stays.
        WeightsError: a sample cannot be read.
    """
    if not _NAME.fullmatch(name):
        raise RequestError("name", name, "has signs that not every disk takes", "adapter")
    targets: dict[str, Target] = {
        f"{name}.safetensors": "original",
        f"{name}-comfyui.safetensors": "comfy",
        DIFFUSERS_NAME: "diffusers",
    }
    files = [lora_file(lora, file, to, depth=depth) for file, to in targets.items()]
    files += _samples(card)
    files.append(text_file(CARD, card_text(lora, card, name)))
    write_files(folder, files, overwrite)
    return folder


def _samples(card: Card) -> Iterator[PlannedFile]:
    for place, shown in enumerate(card.samples):
        yield copied_file(_sample_name(place, shown), shown.path)


def _sample_name(place: int, shown: Shown) -> str:
    return f"samples/{place:02d}{shown.path.suffix}"


def card_text(lora: Lora, card: Card, name: str) -> str:
    """The card: Markdown with the header that model hubs read."""
    parts = [
        _header(card),
        f"# {name}\n",
        f"An adapter (LoRA) for {_public(card.base)}: rank {_numbers(lora.ranks)}, alpha "
        f"{_numbers(lora.alphas)}, {len(lora.layers)} layers, {lora.parameters:,} parameters, "
        f"trained for {card.steps} steps.\n",
        _use(card, name),
        _table("Base", {"model": _public(card.base), "fingerprint": card.base_sha256}),
        _table("Data", card.data),
        _table("Results", card.results),
        _shown(card),
        _settings(card.settings),
    ]
    return "\n".join(part for part in parts if part)


def _header(card: Card) -> str:
    base = json.dumps(_public(card.base))
    tags = "\n".join(f"- {tag}" for tag in ("text-to-video", "lora", "mochi"))
    return f"---\nbase_model: {base}\npipeline_tag: text-to-video\ntags:\n{tags}\n---\n"


def _use(card: Card, name: str) -> str:
    prompt = card.trigger or next((it.prompt for it in card.samples), "a video")
    safe = _plain(prompt).replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return (
        "## Use\n\n```sh\n"
        f'mochi generate "{safe.replace("`", "")}" --lora FOLDER\n```\n\n'
        "| file | for |\n|---|---|\n"
        f"| `{name}.safetensors` | the original's code |\n"
        f"| `{name}-comfyui.safetensors` | ComfyUI |\n"
        f"| `{DIFFUSERS_NAME}` | diffusers, peft |\n\n"
        "All three hold the same numbers; Mochi opens each of them, and this folder.\n"
    )


def _table(title: str, rows: Mapping[str, object]) -> str:
    if not rows:
        return ""
    lines = [f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items()]
    return f"## {title}\n\n| | |\n|---|---|\n" + "\n".join(lines) + "\n"


def _shown(card: Card) -> str:
    if not card.samples:
        return ""
    rows = [
        f"| [{_sample_name(place, it)}]({_sample_name(place, it)}) | {_cell(it.prompt)} "
        f"| {it.seed} |"
        for place, it in enumerate(card.samples)
    ]
    return "## Samples\n\n| video | prompt | seed |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _settings(settings: Mapping[str, Any]) -> str:
    if not settings:
        return ""
    text = json.dumps(_public(settings), indent=2, ensure_ascii=False, default=str)
    return f"## Settings\n\n```json\n{text}\n```\n"


def _public(value: Any) -> Any:
    """The same without the folders of this machine: a card is made to be shown."""
    if isinstance(value, Mapping):
        return {name: _public(each) for name, each in value.items()}
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def _cell(value: object) -> str:
    if isinstance(value, float):
        value = f"{value:.6g}"
    return _plain(str(value)).replace("|", "\\|").replace("<", "&lt;")


def _plain(text: str) -> str:
    """One line, without what would end a table or a block of code."""
    return " ".join(text.split())


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
