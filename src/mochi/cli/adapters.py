"""The adapters of a command: as asked for, or as the video that it repeats was made with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mochi.cli.say import printable
from mochi.core.events import Notice, OnEvent
from mochi.pipeline.lora_spec import LoraSpec, checked_mode

if TYPE_CHECKING:
    from mochi.pipeline.pipeline import Pipeline

NONE = "none"
_SHOWN_DIGITS = 12


def asked_loras(given: Sequence[str] | None, mode: str) -> list[LoraSpec]:
    """The adapters on the command line; `none` alone is no adapter at all.

    Raises:
        RequestError: one cannot be read, or there is no such mode.
    """
    chosen = checked_mode(mode)
    texts = [] if given is None or list(given) == [NONE] else given
    return [replace(LoraSpec.parse(text), mode=chosen) for text in texts]


def recorded_loras(record: Mapping[str, Any], video: Path, mode: str) -> list[LoraSpec]:
    """The adapters that a video was made with, as far as they are here: files of the same name and
    content in this folder or the video's, and names on the hub."""
    chosen = checked_mode(mode)
    found = []
    for entry in lora_entries(record):
        source = _here(entry, (Path(), video.parent))
        if source is not None:
            found.append(LoraSpec(source, float(entry["scale"]), chosen))
    return found


def tell_lora_differences(record: Mapping[str, Any], pipe: Pipeline, listen: OnEvent) -> None:
    """Say which adapters of the given video are missing, worn otherwise, or new."""
    before = {entry["sha256"]: entry for entry in lora_entries(record)}
    now = {worn.sha256: worn for worn in pipe.loras}
    for digest, entry in before.items():
        worn = now.get(digest)
        if worn is None:
            what = (
                f"made with the adapter {lora_text(entry)}, which is not here; give it with --lora"
            )
            listen(Notice(f"the given video was {what}"))
        elif worn.scale != entry["scale"]:
            listen(Notice(f"{worn.name} has the scale {worn.scale:g}, not {entry['scale']:g}"))
    for digest, worn in now.items():
        if digest not in before:
            listen(Notice(f"the given video was made without the adapter {worn.name}"))


def lora_entries(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The adapters in a record; what is no such entry is left out, as videos come from anywhere."""
    entries = record.get("loras")
    known = entries if isinstance(entries, list) else []
    return [entry for entry in known if isinstance(entry, dict) and _is_whole(entry)]


def lora_text(entry: Mapping[str, Any]) -> str:
    """One adapter of a record, to read on a terminal."""
    digits = str(entry["sha256"])[:_SHOWN_DIGITS]
    return printable(f"{entry['file']}:{entry['scale']:g} (sha256 {digits})")


def _is_whole(entry: Mapping[str, Any]) -> bool:
    scale = entry.get("scale")
    texts = all(isinstance(entry.get(key), str) and entry[key] for key in ("file", "sha256"))
    return texts and isinstance(scale, (int, float)) and not isinstance(scale, bool)


def _here(entry: Mapping[str, Any], folders: Iterable[Path]) -> str | None:
    """Where an adapter is; None where it is not, or is another one by now."""
    from mochi.core.errors import WeightsError
    from mochi.weights.hub_lora import hub_lora_name
    from mochi.weights.lora_files import LoraFiles, sha256

    name = str(entry["file"])
    for folder in folders if Path(name).name == name else ():
        try:
            if sha256(LoraFiles.find(folder / name).weights) == entry["sha256"]:
                return str(folder / name)
        except WeightsError:
            continue
    return name if "/" in name and hub_lora_name(name) else None
