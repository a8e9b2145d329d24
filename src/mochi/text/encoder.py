"""Prompts to text features by T5, in and out of memory as one wants (SPEC 3)."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mochi.core.errors import MochiError, RequestError, WeightsError
from mochi.core.heap import trim
from mochi.core.request import check_text
from mochi.core.sizes import whole
from mochi.text.features import TextFeatures
from mochi.text.importing import import_transformers
from mochi.text.runners import Runner, StreamedT5, Walks, WholeT5
from mochi.text.t5 import HOW_TO_GET, T5Weights, load_t5

MAX_TOKENS = 256
VOCABULARIES = ("tokenizer.json", "spiece.model")
_QUOTED_CHARS = 400


class TruncatedPrompt(UserWarning):
    """A prompt was longer than the encoder reads; the message quotes what was cut.

    Attributes:
        cut: the text that was cut off.
        token_count: tokens of the whole prompt, `</s>` included.
        max_tokens: how many are read.
    """

    def __init__(self, cut: str, token_count: int, max_tokens: int):
        self.cut, self.token_count, self.max_tokens = cut, token_count, max_tokens
        shown = cut
        if len(cut) > _QUOTED_CHARS:
            half = _QUOTED_CHARS // 2
            shown = f"{cut[:half]} [...] {cut[-half:]}"
        super().__init__(
            f'the prompt has {token_count} tokens, {max_tokens} are read; cut off: "{shown}"'
        )


@dataclass(frozen=True)
class _Tokens:
    """A prompt as the encoder reads it: ids to the limit, `</s>` last; none for an empty prompt."""

    ids: tuple[int, ...]
    count: int
    cut: str


class TextEncoder:
    """A T5 encoder and its tokenizer.

    `close()` gives its memory back, and so does leaving a `with` block.
    """

    def __init__(self, runner: Runner, tokenizer: Any, max_tokens: int = MAX_TOKENS):
        """Takes a T5 in a form that runs and a tokenizer of transformers.

        Raises:
            RequestError: max_tokens leaves no room for a token and `</s>`.
            WeightsError: the tokenizer knows more tokens than the model.
        """
        self.max_tokens = whole("max_tokens", max_tokens, minimum=2)
        self.width, self.dtype, self.device = runner.width, runner.dtype, runner.device
        self._runner: Runner | None = runner
        self._tokenizer = tokenizer
        if len(tokenizer) > runner.vocabulary:
            sizes = f"{len(tokenizer)} tokens, the text encoder {runner.vocabulary}"
            raise WeightsError(f"tokenizer and text encoder do not match: it knows {sizes}")

    @classmethod
    def from_folders(
        cls,
        encoder: str | Path | T5Weights,
        tokenizer: str | Path,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        max_tokens: int = MAX_TOKENS,
        residency: Walks | None = None,
        dequantize: bool = False,
    ) -> TextEncoder:
        """Load both from Hugging Face folders; nothing is fetched.

        Args:
            encoder: `config.json` and safetensors files of a T5 encoder (or a whole T5); or its
                weights in whatever form, which somebody reads.
            tokenizer: a tokenizer folder.
            dtype: float32, the published precision, or bfloat16 for half the memory.
            device: where the encoder runs and its features lie.
            max_tokens: tokens a prompt may have, `</s>` included; longer ones are cut.
            residency: brings the blocks, converted, while prompts pass through them; None keeps
                the whole encoder in memory.
            dequantize: as of `load_t5`.

        Raises:
            RequestError: dtype or max_tokens break a rule.
            WeightsError: a folder is missing, unreadable or no T5; names it.
        """
        loaded = load_tokenizer(tokenizer)  # first: it is small and fails fast
        if residency is None:
            whole = load_t5(encoder, dtype, device, dequantize=dequantize)
            return cls(WholeT5(whole), loaded, max_tokens)
        stored = load_t5(encoder, None, compute_dtype=dtype)
        runner = StreamedT5(stored, residency, dtype, torch.device(device))
        return cls(runner, loaded, max_tokens)

    def token_count(self, prompt: str) -> int:
        """Tokens of a prompt, `</s>` included, before anything is cut; 0 for an empty one."""
        return self._tokenize(prompt).count

    def encode(self, prompts: str | Sequence[str]) -> TextFeatures:
        """Features of one or more prompts, each `(max_tokens, width)` in the encoder's precision.

        An empty prompt (nothing but white space) has no valid token and the encoder does not run.
        A prompt that is too long is cut, with a `TruncatedPrompt` warning. Each prompt runs by
        itself, so its features do not depend on the prompts beside it.

        Raises:
            RequestError: no prompts, or one that is no text.
            WeightsError: the encoder made NaN or infinity, so its weights are at fault.
            MochiError: the encoder is closed.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts:
            raise RequestError("prompts", texts, "is empty")
        if self._runner is None:
            raise MochiError("the text encoder is closed")
        read = [self._tokenize(text) for text in texts]
        spoken = [tokens for tokens in read if tokens.ids]
        found = iter(self._run(self._runner, spoken) if spoken else [])
        return TextFeatures.join([self._features(tokens, found) for tokens in read])

    def close(self) -> None:
        """Give the encoder's memory back; encoding is an error from now on, counting is not."""
        if self._runner is not None:
            self._runner.close()
        self._runner = None
        gc.collect()  # transformers' modules may sit in reference cycles
        trim()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def __enter__(self) -> TextEncoder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _features(self, tokens: _Tokens, found: Iterator[Tensor]) -> TextFeatures:
        if not tokens.ids:
            return TextFeatures.empty(1, self.max_tokens, self.width, self.dtype, self.device)
        padding = self.max_tokens - len(tokens.ids)
        # No padding goes in, and zeros behind: nothing downstream reads features the mask hides.
        features_BLD = F.pad(next(found), (0, 0, 0, padding))
        mask_BL = torch.arange(self.max_tokens, device=self.device)[None] < len(tokens.ids)
        return TextFeatures(features_BLD, mask_BL, (tokens.count,), (tokens.cut,))

    def _run(self, runner: Runner, prompts: Sequence[_Tokens]) -> list[Tensor]:
        for tokens in prompts:
            if tokens.count > self.max_tokens:
                told = TruncatedPrompt(tokens.cut, tokens.count, self.max_tokens)
                warnings.warn(told, stacklevel=3)
        found = runner.run([tokens.ids for tokens in prompts])
        if not all(bool(torch.isfinite(features).all()) for features in found):
            raise WeightsError("the text encoder made NaN or infinity; its weights are damaged")
        return found

    def _tokenize(self, prompt: str) -> _Tokens:
        check_text("prompt", prompt)
        if not prompt.strip():
            return _Tokens((), 0, "")
        fast = bool(self._tokenizer.is_fast)
        out = self._tokenizer(prompt, return_offsets_mapping=fast, verbose=False)
        ids = tuple(out["input_ids"])
        if len(ids) <= self.max_tokens:
            return _Tokens(ids, len(ids), "")
        kept = self.max_tokens - 1  # and </s>, which ends the ids
        if fast:
            cut = prompt[out["offset_mapping"][kept][0] :].strip()
        else:  # a tokenizer without offsets: its own spelling of the tokens that go
            cut = self._tokenizer.decode(ids[kept:-1])
        return _Tokens((*ids[:kept], ids[-1]), len(ids), cut)


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer in a Hugging Face folder.

    Raises:
        WeightsError: there is none, or it cannot be read; says how to get one.
    """
    folder = Path(folder)
    # Without this, transformers answers a folder that holds no vocabulary with an empty one.
    if not any((folder / name).is_file() for name in VOCABULARIES):
        missing = f"no tokenizer here (neither {' nor '.join(VOCABULARIES)})"
        raise WeightsError(f"{missing}; {HOW_TO_GET}", folder)
    import_transformers()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises anything here, bare Exception included
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise WeightsError(
            f"cannot be read as a tokenizer: {reason}; {HOW_TO_GET}", folder
        ) from error
