"""The documentation says what is there: quoted code stands in the source, links lead somewhere, examples run."""

import re
from pathlib import Path

import pytest
import torch

from rlft.credit import Group, checked_weights, load_credit

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE_TABLE = "| paper | code |"
METHODS = [page for page in PAGES if CODE_TABLE in page.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_exist(page: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", prose):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_files_that_exist(page: Path) -> None:
    for script in re.findall(r"\./launch\.sh .*?((?:recipes|benchmarks)/\S+\.py)", page.read_text()):
        assert (ROOT / script).is_file(), script


def unwrapped(code: str) -> str:
    """Code without white space and the commas that end a wrapped list, so that line breaks do not matter."""
    return re.sub(r",(?=[)\]}])", "", re.sub(r"\s+", "", code))


def test_method_pages_set_code_beside_their_equations() -> None:
    assert {page.stem for page in METHODS} >= {"shear", "exsearch", "dro", "prlm", "stoc"}


@pytest.mark.parametrize("page", METHODS, ids=lambda page: page.name)
def test_code_beside_the_equations_is_the_code(page: Path) -> None:
    table = page.read_text().partition(CODE_TABLE)[2].partition("\n\n")[0]
    rows = [row for row in table.splitlines() if row.startswith("| ")]
    assert len(rows) >= 6
    for row in rows:
        cell = row.rpartition(" | ")[2]
        quoted, files = re.findall(r"`([^`]+)`", cell), re.findall(r"\]\(\.\./([^)]+\.py)\)", cell)
        assert quoted, row
        source = unwrapped("\n".join((ROOT / file).read_text() for file in files))
        for code in quoted:
            assert unwrapped(code.replace("(...)", "(")) in source, f"{code} is not in {files}"


def test_credit_examples_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/credit.md").read_text(), re.DOTALL)
    path = tmp_path / "my_credit.py"
    path.write_text("\n".join(blocks))
    group = Group(
        completion_ids=[torch.arange(5), torch.arange(2)],
        rewards=torch.tensor([1.0, 0.0]),
        correct=torch.tensor([True, False]),
        advantages=torch.tensor([1.0, -1.0]),
        hidden=[torch.randn(5, 3), torch.randn(2, 3)],
    )
    for name in ("last_half", "far_from_zero"):
        assert [len(weight_T) for weight_T in checked_weights(load_credit(f"{path}:{name}"), group)] == [5, 2]
