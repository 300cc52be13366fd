"""metrics.jsonl: strict JSON, whole lines, torn tails."""

import json
import math
from pathlib import Path
from typing import NoReturn

import pytest

from rlft.record import JsonLines, read_jsonl


def refuse_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is not JSON")


def write(path: Path, *records: dict[str, object]) -> None:
    lines = JsonLines(path)
    for record in records:
        lines.append(record)


def test_records_come_back_in_order(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [
        {"step": 1, "reward": 0.1, "note": "a\nb\r\u2028é"},
        {"step": 2, "reward": None},
    ]
    write(tmp_path / "m.jsonl", *records)
    assert read_jsonl(tmp_path / "m.jsonl") == records


def test_non_finite_floats_are_strict_json_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, {"a": math.nan, "b": math.inf, "c": -math.inf, "deep": {"list": [1.0, math.nan]}, "d": 0.5})
    strict = json.loads(path.read_text(), parse_constant=refuse_constant)
    assert strict == {"a": "NaN", "b": "Infinity", "c": "-Infinity", "deep": {"list": [1.0, "NaN"]}, "d": 0.5}
    (read,) = read_jsonl(path)
    assert math.isnan(read["a"])
    assert (read["b"], read["c"], read["d"]) == (math.inf, -math.inf, 0.5)


def test_every_torn_tail_is_passed_over_then_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, {"step": 1}, {"step": 2}, {"step": 3, "reward": 0.25})
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for size in range(last, len(whole)):
        path.write_bytes(whole[:size])
        assert read_jsonl(path) == [{"step": 1}, {"step": 2}]
        write(path, {"step": 4})
        assert read_jsonl(path) == [{"step": 1}, {"step": 2}, {"step": 4}]


def test_reopening_an_intact_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, {"step": 1})
    whole = path.read_bytes()
    JsonLines(path)
    assert path.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":\n{"step":3}\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read_jsonl(path)
    path.write_bytes(b"[1]\n")
    with pytest.raises(ValueError, match="line 1 holds a list"):
        read_jsonl(path)


def test_a_value_that_is_no_json_type_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write(tmp_path / "m.jsonl", {"reward": object()})
    assert not (tmp_path / "m.jsonl").exists()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_jsonl(tmp_path / "m.jsonl")
