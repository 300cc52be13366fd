"""Objects of a JSON Lines file or of a JSON array, one at a time, each with the place it stands at."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlft.data.prompts import DataError

Row = dict[str, Any]


def iter_json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows of a file: one object per line, or one array of objects; which of the two is seen from its first character.

    An array is decoded element by element, so that the half gigabyte of HotpotQA never stands in memory as objects.

    Args:
        path: a `.json` or `.jsonl` file in UTF-8.

    Yields:
        (place, row), the place as `file, line 12`.

    Raises:
        DataError: if the file is missing or empty, is not UTF-8, or holds anything but JSON objects; names the line.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next((line.lstrip()[0] for line in file if line.strip()), None)
        if first is None:
            raise DataError(f"{path} is empty; give a file with one row per line, or one array of rows.")
        yield from _array(path) if first == "[" else _lines(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); convert it.") from error


def _lines(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}, line {number}"
            if line.strip():
                try:
                    yield place, _object(json.loads(line), place)
                except json.JSONDecodeError as error:
                    raise DataError(f"{place} is not JSON ({error.msg}); give one object per line.") from error


def _array(path: Path) -> Iterator[tuple[str, Row]]:
    text = path.read_text(encoding="utf-8-sig")
    decoder, at, line = json.JSONDecoder(), text.index("[") + 1, 1
    counted = 0
    while (at := _next(text, at)) < len(text) and text[at] != "]":
        line, counted = line + text.count("\n", counted, at), at
        place = f"{path}, line {line}"
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno} is not JSON ({error.msg}).") from error
        yield place, _object(value, place)
        at = _next(text, at)
        if text[at : at + 1] not in (",", "]"):
            seen = repr(text[at : at + 20]) if at < len(text) else "the end of the file"
            raise DataError(f"{place}: after this row comes {seen}, not a comma or ']'; is the file cut off?")
        at += text[at] == ","


def _next(text: str, at: int) -> int:
    """Where the next character stands that is no white space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _object(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{place} holds a {type(value).__name__}, not a JSON object.")
    return value
