"""The word-level tokenizer: ids, what it ignores, what it refuses."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.core.errors import RequestError
from mochi.text.encoder import load_tokenizer
from mochi.text.wordlevel import build_word_tokenizer

WORDS = ["red", "a", "circle", "Left", "écru"]
KNOWN = {"a": 3, "circle": 4, "ecru": 5, "left": 6, "red": 7}  # sorted, behind <pad> </s> <unk>


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_word_tokenizer(WORDS, tmp_path_factory.mktemp("words") / "tokenizer")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a red circle", ["a", "red", "circle"]),
        ("  A RED,   circle!!  ", ["a", "red", "circle"]),
        ("red-circle; \n\t(left)", ["red", "circle", "left"]),
        ("ÉCRU écru e\u0301cru Ecru", ["ecru"] * 4),
        ("the circle's", [None, None]),  # "circles" is another word
        ("a zebra", ["a", None]),
        ("", []),
        ("!?", []),
        ("\N{MOVIE CAMERA} a", ["a"]),
        ("日本", [None]),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER R}ed", ["red"]),
    ],
)
def test_prompts_to_ids(tokenizer: Any, prompt: str, words: list[str | None]) -> None:
    expected = [2 if word is None else KNOWN[word] for word in words] + [1]
    assert tokenizer(prompt)["input_ids"] == expected


def test_special_tokens_are_t5s(tokenizer: Any) -> None:
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert len(tokenizer) == 3 + len(KNOWN)
    padded = tokenizer("red", padding="max_length", truncation=True, max_length=4)
    assert padded["input_ids"] == [7, 1, 0, 0]
    assert padded["attention_mask"] == [1, 1, 0, 0]
    assert tokenizer.decode([3, 7, 4, 1, 0], skip_special_tokens=True) == "a red circle"


def test_the_same_words_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = build_word_tokenizer(reversed([*WORDS, "A", "RED"]), tmp_path / "x" / "y")
    names = sorted(path.name for path in folder.iterdir())
    assert sorted(path.name for path in again.iterdir()) == names
    for name in names:
        assert (again / name).read_bytes() == (folder / name).read_bytes()


@given(prompt=st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=60))
def test_any_text_is_read_whatever_stands_around_it(tokenizer: Any, prompt: str) -> None:
    ids = tokenizer(prompt, verbose=False)["input_ids"]
    assert ids[-1] == 1
    assert all(0 <= token < 8 for token in ids)
    assert tokenizer(f"  {prompt}.  ", verbose=False)["input_ids"] == ids


@pytest.mark.parametrize("word", ["", "two words", "semi-colon", "!", " ", "\n"])
def test_an_entry_that_is_not_one_word_is_refused(tmp_path: Path, word: str) -> None:
    with pytest.raises(RequestError, match="is not one word"):
        build_word_tokenizer(["red", word], tmp_path / "tokenizer")
    assert not (tmp_path / "tokenizer").exists()


def test_no_words_and_no_room_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="words"):
        build_word_tokenizer([], tmp_path)
    with pytest.raises(RequestError, match="max_tokens"):
        build_word_tokenizer(["red"], tmp_path, max_tokens=1)
