"""Prompts to what the transformer is conditioned on, with the text encoder in memory only for as
long as it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mochi.core.request import GenerateRequest
from mochi.pipeline.parts import Parts
from mochi.text.encoder import load_tokenizer
from mochi.text.features import TextFeatures

REMEMBERED_BYTES = 512 * 2**20
"""Of text features: 128 prompts of the published model, thousands of nano."""


@dataclass(frozen=True)
class Conditioning:
    """Features of a prompt and of its negative prompt, one row each, on the CPU."""

    positive: TextFeatures
    negative: TextFeatures

    def joined(self) -> TextFeatures:
        """Both as one batch, the prompt first: what is saved as embeddings."""
        return TextFeatures.join([self.positive, self.negative])


class Prompts:
    """Encodes prompts, and remembers what it has encoded."""

    def __init__(self, parts: Parts):
        self._parts = parts
        self._known: dict[str, TextFeatures] = {}
        self._tokenizer: Any = None

    def conditioning(self, request: GenerateRequest) -> Conditioning:
        """What a request's two prompts become.

        Raises:
            WeightsError: the text encoder or its tokenizer is missing or broken.
        """
        self.encode([request.prompt, request.negative_prompt])
        return Conditioning(self._known[request.prompt], self._known[request.negative_prompt])

    def completed(self, given: TextFeatures, negative_prompt: str) -> Conditioning:
        """Given features of a prompt, and a negative: the second row, the one that
        `negative_prompt` makes, or an empty one, which needs no encoder (SPEC 3).

        Raises:
            WeightsError: as `conditioning`.
        """
        if len(given) == 2:
            return Conditioning(given[0], given[1])
        if negative_prompt:
            self.encode([negative_prompt])
            return Conditioning(given, self._known[negative_prompt])
        return Conditioning(given, TextFeatures.empty(*given.features.shape))

    def encode(self, prompts: Sequence[str]) -> None:
        """Encode these prompts now, loading the text encoder at most once."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if not new:
            return
        features = self._parts.text().encode(new).to("cpu")
        for row, prompt in enumerate(new):
            self._known[prompt] = features[row]
        self._forget_all_but(prompts)
        self._parts.done_with("text")

    def tokens_known(self, prompt: str) -> int | None:
        """Tokens of a prompt, as far as that is known without a tokenizer."""
        if prompt in self._known:
            return int(self._known[prompt].mask.sum())
        return None if prompt.strip() else 0

    def _forget_all_but(self, prompts: Sequence[str]) -> None:
        """Drop the oldest features while all together are too large; `prompts` stay."""
        old = [prompt for prompt in self._known if prompt not in prompts]
        size = sum(row.features.nbytes for row in self._known.values())
        while old and size > REMEMBERED_BYTES:
            size -= self._known.pop(old.pop(0)).features.nbytes

    def token_count(self, prompt: str) -> int:
        """Tokens of a prompt, `</s>` included; those beyond 256 are cut off. No encoder is loaded.

        Raises:
            WeightsError: the tokenizer is missing or broken.
        """
        if prompt in self._known:
            return self._known[prompt].token_counts[0]
        if not prompt.strip():
            return 0
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._parts.files.tokenizer_folder())
        return len(self._tokenizer(prompt, verbose=False)["input_ids"])
