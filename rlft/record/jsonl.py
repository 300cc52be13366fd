"""JSON Lines that survive a kill in mid-write and that strict parsers read.

Records are appended as whole lines, so a process that dies leaves at most one torn line, at the end. Readers
pass over it and the next writer cuts it off. JSON has no NaN: non-finite floats stand as the strings "NaN",
"Infinity" and "-Infinity", which Python's `float()` reads and `read_jsonl` turns back into floats.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class JsonLines:
    """Append-only writer of one file. Opening a file whose last line is torn cuts that line off.

    Args:
        path: the file, in an existing folder; created with the first record. One process writes it at a time.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.exists():
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)

    def append(self, record: Mapping[str, object]) -> None:
        """Write `record` as one line and hand it to the operating system.

        Raises:
            TypeError: if a value is no JSON type (convert tensors with `.item()` or `.tolist()` first).
        """
        line = to_json(record).encode("ascii") + b"\n"
        with self.path.open("ab") as file:
            file.write(line)


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All complete records of a file; a torn last line is left out. Safe while the file is being written.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a complete line is not a JSON object.
    """
    *lines, _torn = Path(path).read_bytes().split(b"\n")
    return [_record(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def json_lines(records: Iterable[Mapping[str, object]]) -> str:
    """The text of a file of records."""
    return "".join(to_json(record) + "\n" for record in records)


def to_json(value: object) -> str:
    """`value` as compact, strict, ASCII JSON; non-finite floats become strings (see the top of this file)."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_spelt_out(value), allow_nan=False, separators=(",", ":"))


def _spelt_out(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _spelt_out(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spelt_out(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _record(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place} is not JSON ({error}); was the file edited by hand?") from error
    if not isinstance(record, dict):
        raise ValueError(f"{place} holds a {type(record).__name__}, not a JSON object; is this a metrics file?")
    return {key: _finite_or_not(item) for key, item in record.items()}


def _finite_or_not(value: Any) -> Any:
    """Strings that stand for non-finite numbers as numbers, in lists and mappings too."""
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, list):
        return [_finite_or_not(item) for item in value]
    return {key: _finite_or_not(item) for key, item in value.items()} if isinstance(value, dict) else value
