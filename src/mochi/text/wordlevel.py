"""A word-level tokenizer for small models, saved as a Hugging Face tokenizer folder.

T5's own vocabulary of 32,128 pieces would be most of a small model's weights. A model that knows a
small world needs a few hundred words, so each gets one id. The ids of the special tokens are T5's
(SPEC 3 speaks of padding and `</s>`): a `T5EncoderModel` reads the result like that of its
own tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mochi.core.errors import RequestError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
SPECIAL_TOKENS = (PAD, END, UNKNOWN)  # ids 0, 1, 2, as in T5


def build_word_tokenizer(words: Iterable[str], folder: str | Path, max_tokens: int = 256) -> Path:
    """Writes a tokenizer that knows `words` into `folder` and returns the folder.

    Prompts are read without regard to case, accents and punctuation: "A RED ball!" is `a red ball
    </s>`. Words it does not know become `<unk>`. The same words in any order give the same bytes.

    Args:
        words: the vocabulary; each must be one word once case and punctuation are gone. Repeats
            are welcome.
        folder: made when it does not exist; `AutoTokenizer.from_pretrained(folder)` reads it.
        max_tokens: tokens a prompt may have, `</s>` included.

    Raises:
        RequestError: no words, an entry of `words` that is not one word, or `max_tokens` below 2.
    """
    if max_tokens < 2:
        raise RequestError("max_tokens", max_tokens, "must leave room for a word and </s>", 2)
    tokenizer = _tokenizer(_vocabulary(words))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _config(max_tokens))
    return folder


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, vocabulary[END])]
    )
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    tokenizer.add_special_tokens(special)
    return tokenizer


def _normalizer() -> Normalizer:
    from tokenizers import Regex
    from tokenizers.normalizers import NFKD, Lowercase, Replace, Sequence, StripAccents

    return Sequence(
        [
            NFKD(),
            StripAccents(),
            Lowercase(),
            Replace(Regex(r"['’]"), ""),  # "circle's" is one word, not two
            Replace(Regex(r"[^\p{L}\p{N}]+"), " "),
        ]
    )


def _vocabulary(words: Iterable[str]) -> dict[str, int]:
    normalizer = _normalizer()
    known = set()
    for word in words:
        plain = normalizer.normalize_str(word).split()
        if len(plain) != 1:
            raise RequestError("words", word, "is not one word", " ".join(plain) or None)
        known.add(plain[0])
    if not known:
        raise RequestError("words", [], "must hold at least one word")
    return {word: i for i, word in enumerate((*SPECIAL_TOKENS, *sorted(known)))}


def _config(max_tokens: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_tokens,
        "padding_side": "right",
        "truncation_side": "right",
        "pad_token": PAD,
        "eos_token": END,
        "unk_token": UNKNOWN,
        "clean_up_tokenization_spaces": False,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
