"""How the transformer computes, by name.

Every choice of `Speed` but one gives the same video within rounding: `sage` is an attention of 8
bits, and never chosen by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mochi.core.errors import RequestError

ATTENTION_NAMES = (
    *("auto", "sdpa", "chunked", "cudnn", "flash", "flash3", "flash4", "efficient"),
    "sage",
)
KERNEL_NAMES = ("auto", "plain", "lean", "compiled", "triton")
PASS_NAMES = ("auto", "together", "apart")

PRODUCT_NAMES = ("exact", "int8", "fp8")
"""What `--products` takes: beside exact ones, those that lose something."""

Passes = Literal["auto", "together", "apart"]


@dataclass(frozen=True)
class Speed:
    """Which fast paths are taken.

    Attributes:
        attention: the attention kernel; `auto` times those that there are.
        kernels: the elementwise pieces between matrix products; `auto` goes by the device.
        passes: whether both passes of a guided step run as one batch; `auto` goes by their size.
        tables: modulation of all steps and prompts worked out once, before the first step.

    Raises:
        RequestError: a name is unknown; lists those there are.
    """

    attention: str = "auto"
    kernels: str = "auto"
    passes: Passes = "auto"
    tables: bool = True

    def __post_init__(self) -> None:
        check_word("attention", self.attention, ATTENTION_NAMES)
        check_word("kernels", self.kernels, KERNEL_NAMES)
        check_word("passes", self.passes, PASS_NAMES)

    @classmethod
    def plain(cls) -> Speed:
        """All fast paths off."""
        return cls(attention="sdpa", kernels="plain", passes="apart", tables=False)


def check_word(field: str, word: str, words: tuple[str, ...]) -> None:
    """Refuse what is not one of these words.

    Raises:
        RequestError: lists them.
    """
    if word not in words:
        raise RequestError(field, word, "is unknown", ", ".join(words))
