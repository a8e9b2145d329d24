"""Captions in files: a text file beside each clip, or one table for all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mochi.core.errors import MochiError, RequestError
from mochi.core.request import check_prompt

TABLES = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
_FILE_COLUMNS = ("file", "file_name", "video", "path", "name")
_TEXT_COLUMNS = ("caption", "text", "prompt")
_MAX_BYTES = 1 << 20  # of one caption's file
_MAX_TABLE_BYTES = 1 << 30


class CaptionProblem(Exception):
    """A clip's caption cannot be used; the message says why, without the clip's name."""


@dataclass(frozen=True)
class Table:
    """Captions by what the table calls a video: its path, with or without its ending.

    Attributes:
        rows: one caption each; None where the table has several that differ.
        name: of the file, "" where there is none.
    """

    rows: Mapping[str, str | None]
    name: str

    def caption(self, row: str) -> str:
        """One row's caption, checked.

        Raises:
            CaptionProblem: it is empty, too long, or there are several.
        """
        text = self.rows[row]
        if text is None:
            raise CaptionProblem(f"has several captions in {self.name}")
        return checked(text, f"its caption in {self.name}")


def find_table(folder: Path) -> Path | None:
    """The table in a folder, if there is one.

    Raises:
        RequestError: there are several.
    """
    found = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise RequestError("clips", str(folder), f"holds several tables of captions: {names}")
    return found[0] if found else None


def read_text(path: Path) -> str:
    """The caption in a text file.

    Raises:
        CaptionProblem: it cannot be read, is not UTF-8, empty, or too long.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CaptionProblem(f"its caption {path.name} is no caption: more than 1 MiB")
        raw = path.read_bytes()
    except OSError as error:
        raise CaptionProblem(f"its caption {path.name} cannot be read: {error.strerror}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CaptionProblem(
            f"its caption {path.name} is not UTF-8 (byte {error.start + 1}); save it as UTF-8"
        ) from None
    return checked(text, f"its caption {path.name}")


def checked(text: str, what: str) -> str:
    """A caption with single blanks between its words.

    Raises:
        CaptionProblem: it is empty, or breaks a rule of prompts.
    """
    plain = " ".join(text.split())
    if not plain:
        raise CaptionProblem(f"{what} is empty")
    try:
        check_prompt("caption", plain)
    except RequestError as error:
        raise CaptionProblem(f"{what}: {error}") from None
    return plain


def read_table(path: Path) -> Table:
    """A CSV or JSONL file with a column of files and one of captions.

    Raises:
        RequestError: another ending.
        MochiError: it cannot be read, is not UTF-8, or lacks a column; names the line.
    """
    readers = {".csv": _csv_rows, ".jsonl": _json_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise RequestError("captions", str(path), "is no .csv and no .jsonl")
    rows: dict[str, str | None] = {}
    for name, caption in reader(_text_of(path), path):
        same = rows.setdefault(name, caption) == caption
        rows[name] = caption if same else None
    return Table(rows, path.name)


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_TABLE_BYTES:
            raise MochiError(f"{path}: is too large for a table of captions")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise MochiError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise MochiError(f"{path}: is not UTF-8 (byte {error.start + 1})") from None


def _csv_rows(text: str, path: Path) -> Iterator[tuple[str, str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    columns = reader.fieldnames or ()
    try:
        for row in reader:
            yield _pair(row, columns, f"{path}: line {reader.line_num}")
    except csv.Error as error:
        raise MochiError(f"{path}: line {reader.line_num}: {error}") from error


def _json_rows(text: str, path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MochiError(f"{where}: is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise MochiError(f"{where}: is no JSON object")
        yield _pair(row, tuple(row), where)


def _pair(row: Mapping[str, Any], columns: tuple[str, ...] | Any, where: str) -> tuple[str, str]:
    name = row[_column(columns, _FILE_COLUMNS, where)]
    caption = row[_column(columns, _TEXT_COLUMNS, where)]
    if not isinstance(name, str) or not isinstance(caption, str):
        raise MochiError(f"{where}: file and caption must be text")
    return name.strip().replace("\\", "/").removeprefix("./"), caption


def _column(columns: tuple[str, ...], known: tuple[str, ...], where: str) -> str:
    for name in known:
        if name in columns:
            return name
    raise MochiError(f"{where}: has no column {known[0]} (or {', '.join(known[1:])})")
