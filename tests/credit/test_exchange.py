"""Weights do not depend on how groups lie over processes, and only what is needed travels."""

from pathlib import Path

import pytest
import torch

from rlft.credit.exchange import owner_of, places_of
from tests import scripts

WORKER = Path(__file__).parent / "exchange_worker.py"


@pytest.mark.parametrize("processes", [2, 4])
def test_every_layout_gives_the_weights_of_one_process(processes: int, tmp_path: Path) -> None:
    finished = scripts.run(WORKER, str(tmp_path), processes=processes)
    assert finished.returncode == 0, finished.stderr[-3000:]
    for rank in range(processes):
        result = torch.load(tmp_path / f"rank-{rank}.pt")
        for groups in ("all", "mixed"):
            assert result[groups]["worst"] <= 1e-6
            assert result[groups]["sent"] == result[groups]["expected"]
        assert 0 < result["mixed"]["sent"] < result["all"]["sent"]
        assert "a state is not finite; lower the learning rate" in result["failure"]
        assert ("process" in result["failure"]) == (rank != processes - 1), "the one that failed says it as it was"


@pytest.mark.parametrize(
    ("number", "group_size", "rows", "places", "owner"),
    [
        (0, 4, 8, {0: range(0, 4)}, 0),
        (1, 4, 6, {0: range(4, 6), 1: range(6, 8)}, 0),
        (1, 8, 6, {1: range(8, 12), 2: range(12, 16)}, 1),
        (0, 8, 6, {0: range(0, 6), 1: range(6, 8)}, 0),
        (2, 8, 6, {2: range(16, 18), 3: range(18, 24)}, 3),
        (0, 8, 3, {0: range(0, 3), 1: range(3, 6), 2: range(6, 8)}, 0),
    ],
)
def test_a_group_s_owner_holds_most_of_its_rows(
    number: int, group_size: int, rows: int, places: dict[int, range], owner: int
) -> None:
    assert places_of(number, group_size, rows) == places
    assert owner_of(places) == owner
