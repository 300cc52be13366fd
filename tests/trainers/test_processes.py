"""Groups that straddle processes give the weights of one process, and a failure on one ends all."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import scripts
from tests.trainers.process_worker import ROWS

WORKER = Path(__file__).parent / "process_worker.py"
Seen = list[dict[str, dict[str, Any]]]


def launch(processes: int, model: Path, output: Path) -> Seen:
    """What every rank saw in every setting."""
    output.mkdir()
    finished = scripts.run(WORKER, str(model), str(output), str(processes), processes=processes)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return [torch.load(output / f"rank-{rank}.pt") for rank in range(processes)]


@pytest.fixture(scope="module")
def alone(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return launch(1, random_model, tmp_path_factory.mktemp("alone") / "1")[0]


@pytest.fixture(scope="module", params=[2, 4])
def together(request: Any, random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """With 2 processes of 12 rows the second group of 8 lies on both, with 4 of 6 rows every group does."""
    return launch(request.param, random_model, tmp_path_factory.mktemp("together") / "n")


@pytest.mark.parametrize("setting", ["loss", "sharded", "entropy"])
def test_weights_do_not_depend_on_the_number_of_processes(
    setting: str, alone: dict[str, dict[str, Any]], together: Seen
) -> None:
    joined = [row for rank in together for row in rank[setting]["advantages"]]
    assert len(joined) == ROWS
    assert len({len(row) for row in joined}) > 1
    for row, expected in zip(joined, alone[setting]["advantages"], strict=True):
        assert row == pytest.approx(expected, abs=1e-6)
    assert any(abs(value) not in (0.0, abs(row[0])) for row in joined for value in row), "credit must vary in a row"
    for name in ("weight_mean", "weight_std", "sign_balance", "frac_mixed_groups", "frac_dead_groups"):
        name = f"shear/{name}"
        assert together[0][setting]["log"][name] == pytest.approx(alone[setting]["log"][name], abs=1e-5), name


def test_only_rows_of_straddling_groups_travel(alone: dict[str, dict[str, Any]], together: Seen) -> None:
    """Model tokens, in the dtype of the states, of rows that lie apart from most of their group; mixed groups only."""
    for setting, hidden, per_token in (("loss", 32, 4 * 32), ("sharded", 32, 4 * 32), ("entropy", 0, 4)):
        size = 8 if setting == "loss" else 4
        count = ROWS // len(together)
        expected = 0
        for begin in range(0, ROWS, size):
            rows = alone[setting]["advantages"][begin : begin + size]
            ranks = [index // count for index in range(begin, begin + size)]
            home = max(sorted(set(ranks)), key=ranks.count)
            if len({row[0] > 0 for row in rows}) > 1 or not hidden:
                away = [row for row, rank in zip(rows, ranks, strict=True) if rank != home]
                expected += sum(16 + len(row) * (4 + per_token + 4) for row in away)
        assert together[0][setting]["log"]["shear/exchanged_bytes"] == expected
        assert alone[setting]["log"]["shear/exchanged_bytes"] == 0
    assert together[0]["loss"]["log"]["shear/exchanged_bytes"] > 0


def test_states_that_are_not_finite_on_one_process_end_all_with_the_message(together: Seen) -> None:
    *others, failed = (rank["broken"]["error"] for rank in together)
    assert "credit shear" in failed
    for error in others:
        assert error == f"process {len(others)}: {failed}"
