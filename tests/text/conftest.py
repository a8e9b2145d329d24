"""A tiny random T5 and a word-level tokenizer in folders, as a model's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mochi.text.encoder import TextEncoder
from mochi.text.t5 import T5Size, build_t5
from mochi.text.wordlevel import build_word_tokenizer

WORDS = ["a", "red", "blue", "circle", "square", "moves", "left", "on", "black", "background"]
WORDS += ["and", "the"]
SIZE = T5Size(vocabulary=32, width=32, feed_forward=48, depth=2, heads=4, head_dim=8)
MAX_TOKENS = 10


@dataclass(frozen=True)
class TinyText:
    """The folders of one text encoder."""

    encoder: Path
    tokenizer: Path

    def load(self, **options: Any) -> TextEncoder:
        given = {"max_tokens": MAX_TOKENS} | options
        return TextEncoder.from_folders(self.encoder, self.tokenizer, **given)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyText:
    folder = tmp_path_factory.mktemp("text")
    model = build_t5(SIZE)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.save_pretrained(folder / "text_encoder")
    build_word_tokenizer(WORDS, folder / "tokenizer", MAX_TOKENS)
    return TinyText(folder / "text_encoder", folder / "tokenizer")
