"""Classifiers of prompts and pictures, with transformers: what a server may ask before it gives
a video away. None is part of this package; their files are safetensors, and their licence is read.
"""

# Shapes: N pictures, H W pixels, K labels.

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mochi.core.errors import WeightsError
from mochi.text.importing import import_transformers

PERMISSIVE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "unlicense")
"""Licences that ask for nothing of who runs a server; others have to be named to be used."""

_LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]+)", re.MULTILINE)
_CARD = "README.md"


class Classifier(ABC):
    """What texts and pictures have in common.

    Args:
        source: a folder, or a name on the hub.
        labels: those that are watched.
        licence: the one that its user has agreed to, where it is none of `PERMISSIVE`.

    Raises:
        WeightsError: it cannot be loaded, its licence was not agreed to, or a label is none of its.
    """

    def __init__(self, source: str, labels: Sequence[str], licence: str | None = None):
        check_licence(source, licence)
        try:
            self._load(source)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise WeightsError(f"{source}: cannot be used as a classifier: {error}") from error
        known = self._names()
        for label in labels:
            if label not in known:
                raise WeightsError(f"{source}: has no label {label!r}; it has {', '.join(known)}")
        self._labels = tuple(labels)

    @abstractmethod
    def _load(self, source: str) -> None:
        """Set `_model`, and what makes its inputs."""

    def _names(self) -> list[str]:
        return [str(name) for name in self._model.config.id2label.values()]

    def _most(self, inputs: Mapping[str, torch.Tensor]) -> tuple[str, float]:
        """The watched label that is likeliest in any row, and how likely: 0 to 1."""
        with torch.no_grad():
            chances_NK = self._model(**inputs).logits.float().softmax(-1)
        highest = dict(zip(self._names(), chances_NK.amax(0).tolist(), strict=True))
        label = max(self._labels, key=lambda name: highest[name])
        return label, float(highest[label])

    _model: Any


class PromptClassifier(Classifier):
    """Classifies texts."""

    def look(self, prompt: str) -> tuple[str, float]:
        """The watched label that is likeliest, and how likely."""
        return self._most(
            self._tokenizer(prompt, return_tensors="pt", truncation=True, max_length=512)
        )

    def _load(self, source: str) -> None:
        import_transformers()
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(source)
        self._model = AutoModelForSequenceClassification.from_pretrained(
            source, use_safetensors=True
        ).eval()


class PictureClassifier(Classifier):
    """Classifies pictures."""

    def look(self, frames_NHWC: Sequence[np.ndarray]) -> tuple[str, float]:
        """The watched label that is likeliest in any of these pictures, and how likely."""
        from PIL import Image

        pictures = [Image.fromarray(frame_HWC) for frame_HWC in frames_NHWC]
        return self._most(self._processor(images=pictures, return_tensors="pt"))

    def _load(self, source: str) -> None:
        import_transformers()
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        self._processor = AutoImageProcessor.from_pretrained(source)
        self._model = AutoModelForImageClassification.from_pretrained(
            source, use_safetensors=True
        ).eval()


def check_licence(source: str, agreed: str | None) -> str:
    """The licence of a classifier, from its card.

    Raises:
        WeightsError: it asks for something, or is not said, and was not agreed to by its name.
    """
    found = licence_of(source)
    if found in PERMISSIVE or (agreed is not None and agreed.lower() == (found or "unknown")):
        return found or "unknown"
    said = "its card names no licence" if found is None else f"its licence is {found}"
    raise WeightsError(f"{source}: {said}; to use it all the same say licence={found or 'unknown'}")


def licence_of(source: str) -> str | None:
    """What a model's card says, in small letters; None where it says nothing."""
    card = Path(source) / _CARD
    if not Path(source).is_dir():
        from huggingface_hub import hf_hub_download

        try:
            card = Path(hf_hub_download(source, _CARD))
        except (OSError, ValueError) as error:
            raise WeightsError(f"{source}: its card cannot be read: {error}") from error
    try:
        text = card.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    front = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
    match = _LICENCE.search(front)
    return match[1].lower() if match else None
