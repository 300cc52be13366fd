"""docs/faults.md names tests that exist, one at least in every row, and forgets none of this folder."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs/faults.md").read_text()
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| (?!fault |claim )", line)]
NAMED = set(re.findall(r"`(\S+\.py::\w+)`", PAGE))


def names_in(path: Path) -> set[str]:
    """Names of the test functions of a file."""
    nodes = ast.parse(path.read_text()).body
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_every_row_is_backed_by_tests_that_exist(row: str) -> None:
    named = re.findall(r"`(\S+\.py)::(\w+)`", row.rsplit(" | ", 1)[1])
    assert named
    for file, name in named:
        assert name in names_in(TESTS / file), f"{file}::{name}"


def test_no_test_of_this_folder_is_missing() -> None:
    here = {
        f"faults/{path.name}::{name}"
        for path in Path(__file__).parent.glob("test_*.py")
        if path != Path(__file__)
        for name in names_in(path)
    }
    assert here - NAMED == set()
