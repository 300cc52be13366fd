"""Groups that straddle processes give the weights of one process."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import scripts

WORKER = Path(__file__).parent / "process_worker.py"


def launch(processes: int, model: Path, output: Path) -> list[dict[str, Any]]:
    """What every rank saw when 12 rollouts (3 groups of 4) were spread over `processes`."""
    output.mkdir()
    finished = scripts.run(WORKER, str(model), str(output), str(12 // processes), processes=processes)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return [torch.load(output / f"rank-{rank}.pt") for rank in range(processes)]


def test_weights_do_not_depend_on_the_number_of_processes(random_model: Path, tmp_path: Path) -> None:
    """With 2 processes of 6 rows the middle group of 4 lies on both."""
    (alone,) = launch(1, random_model, tmp_path / "one")
    together = launch(2, random_model, tmp_path / "two")
    joined = [row for rank in together for row in rank["advantages"]]
    assert len(joined) == 12
    assert len({len(row) for row in joined}) > 1
    for row, expected in zip(joined, alone["advantages"], strict=True):
        assert row == pytest.approx(expected, abs=1e-6)
    assert any(abs(value) not in (0.0, abs(row[0])) for row in joined for value in row), "credit must vary in a row"
    for name in ("weight_mean", "weight_std", "sign_balance", "frac_mixed_groups", "frac_dead_groups"):
        name = f"shear/{name}"
        assert together[0]["log"][name] == pytest.approx(alone["log"][name], abs=1e-5), name
