"""What a pipeline does with adapters (LoRA)."""

from __future__ import annotations

from pathlib import Path

from mochi.core.events import OnEvent, ignore
from mochi.pipeline.lora_spec import checked_mode, checked_scale
from mochi.pipeline.loras import WornLora
from mochi.pipeline.models import Hub, find_lora
from mochi.pipeline.parts import Parts


class Adapted:
    """The share of `Pipeline` that puts adapters on its transformer and takes them off.

    Attributes:
        parts: its networks.
    """

    parts: Parts

    @property
    def loras(self) -> tuple[WornLora, ...]:
        """The adapters that are on, in the order in which they came: name, scale, mode, hash."""
        return tuple(self.parts.loras)

    def add_lora(
        self,
        path: str | Path,
        scale: float = 1.0,
        *,
        name: str | None = None,
        mode: str = "live",
        hub: Hub | None = None,
        on_event: OnEvent = ignore,
    ) -> WornLora:
        """Put an adapter (LoRA) on the transformer, beside those that are on already.

        Args:
            path: a file of any flavour, a folder as peft writes it, or a name on the hub
                (`owner/name`, `owner/name/FILE`).
            scale: how much of it.
            name: what it is called; else the file's name without its ending.
            mode: `live` computes it beside the weights: little memory, a little time. `merged` puts
                it into them: no time, and the memory of the layers that it changes once more.
            hub: where to fetch from, when not from the public hub.
            on_event: told about a download, and what merging costs.

        Raises:
            RequestError: no such file, the name is taken, the adapter is on already, or the scale
                is no finite number.
            WeightsError: it is unreadable or does not fit; lists what does not. Nothing changed.
            DownloadError: the hub does not deliver.
        """
        scale, chosen = checked_scale(scale), checked_mode(mode)
        file, source = find_lora(str(path), hub, on_event)
        return self.parts.loras.add(file, source, scale, name, chosen, on_event)

    def set_lora_scale(self, name: str, scale: float) -> None:
        """Another amount of an adapter; 0 switches it off.

        Raises:
            RequestError: no adapter has this name, or the scale is no finite number.
        """
        self.parts.loras.set_scale(name, checked_scale(scale))

    def remove_lora(self, name: str) -> None:
        """Take an adapter off: the weights are bit for bit what they were without it.

        Raises:
            RequestError: no adapter has this name.
        """
        self.parts.loras.remove(name)

    def clear_loras(self) -> None:
        """Take all adapters off."""
        self.parts.loras.clear()
