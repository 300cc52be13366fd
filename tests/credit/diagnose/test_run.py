"""Figures and page of a recorded run, on runs whose figures are known by hand."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlft.credit.diagnose import diagnose_run
from rlft.credit.diagnose.run import NothingRecorded
from rlft.record import RolloutLog, RolloutRow, record_dir
from tests.record.test_rollouts import ROW


def rollout(weights: Sequence[float], advantage: float, *, step: int = 0, group: int = 0) -> RolloutRow:
    return replace(
        ROW,
        step=step,
        group=group,
        token_ids=[5] * len(weights),
        credit=list(weights),
        advantage=advantage,
        reward=float(advantage > 0),
    )


def write_run(
    folder: Path, rows: Sequence[RolloutRow], config: str = "training:\n  credit: shear\n  window: 2\n"
) -> Path:
    log = RolloutLog(record_dir(folder), 0)
    for step in sorted({row.step for row in rows}):
        log.append([row for row in rows if row.step == step])
    (folder / "config.yaml").write_text(config)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    mixed = [rollout([1, 1, 1, 3], 1.0), rollout([2, 0.5, 0.5, 0, 1], -1.0)]
    unmixed = [rollout([1.0, 1.0], 0.0, group=1), rollout([1.0, 1.0], 0.0, group=1)]
    return write_run(tmp_path / "run", [*mixed, *unmixed])


def test_figures_by_hand(run: Path) -> None:
    found = diagnose_run(run, bins=1, resamples=5)
    assert found.counts == {
        "groups": 2, "mixed_groups": 1, "rollouts": 4, "unscored": 0, "tokens": 12, "untrained_tokens": 1, "steps": 1,
    }  # fmt: skip
    assert found.weight == pytest.approx(
        {"mean": 10 / 8, "std": np.std([1, 1, 1, 3, 2, 0.5, 0.5, 1]), "least": 0.5, "most": 3}
    )
    assert found.rollout_means == {"correct": (1.5, 0.0), "wrong": (1.0, 0.0)}
    assert found.sign_balance is not None
    assert found.sign_balance.value == pytest.approx((1.5 - 1) / 2.5)
    assert found.push is not None
    assert found.push.value == pytest.approx((6 - 4) / 10)
    assert found.plain_push is not None
    assert found.plain_push.value == pytest.approx((4 - 4) / 8)
    assert found.last_window is not None
    assert found.last_window.value == pytest.approx((4 + 1) / 10)
    assert found.plain_last_window is not None
    assert found.plain_last_window.value == pytest.approx((2 + 1) / 8)
    assert found.weighted


def test_a_zero_weight_of_a_trained_token_counts_where_the_record_says_so(tmp_path: Path) -> None:
    rows = [replace(rollout([2.0, 0.0, 0.0], side), roles="tte") for side in (1.0, -1.0)]
    found = diagnose_run(write_run(tmp_path / "run", rows), resamples=5)
    assert (found.counts["tokens"], found.counts["untrained_tokens"]) == (4, 2)
    assert found.weight["mean"] == pytest.approx(1.0)


def test_mass_by_position_adds_up_and_splits_tokens_across_edges(run: Path) -> None:
    found = diagnose_run(run, bins=2, resamples=5)
    first = (1 + 1) + (2 + 0.5 + 0.25)
    assert [part.value for part in found.by_position] == pytest.approx([first / 10, 1 - first / 10])
    for bins in (1, 3, 10):
        assert sum(part.value for part in diagnose_run(run, bins=bins, resamples=1).by_position) == pytest.approx(1)


def test_weights_of_one_spread_mass_evenly(tmp_path: Path) -> None:
    rows = [rollout([1.0] * 7, 1.0), rollout([1.0] * 7, -1.0)]
    found = diagnose_run(write_run(tmp_path / "run", rows), bins=4, resamples=5)
    assert not found.weighted
    assert [part.value for part in found.by_position] == pytest.approx([0.25] * 4)
    assert found.sign_balance == (0, 0, 0)


def test_the_interval_is_over_groups(tmp_path: Path) -> None:
    rows = [rollout([w], a, group=g) for g, w in enumerate([1, 3, 5, 7]) for a in (1.0, -1.0)]
    rows = [replace(row, credit=[1.0]) if row.advantage < 0 else row for row in rows]
    found = diagnose_run(write_run(tmp_path / "run", rows), resamples=200).sign_balance
    assert found is not None
    assert found.value == pytest.approx(np.mean([0, 2 / 4, 4 / 6, 6 / 8]))
    assert 0 <= found.low < found.value < found.high <= 0.75


def test_a_run_without_outcomes_or_advantages_has_no_balance(tmp_path: Path) -> None:
    rows = [replace(rollout([1.0], 0.0), reward=None), rollout([], 0.0)]
    found = diagnose_run(write_run(tmp_path / "run", rows), resamples=5)
    assert (found.sign_balance, found.push, found.by_position, found.weight) == (None, None, [], {})
    assert found.counts["unscored"] == 1


def test_bad_input_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bins=0, window=2"):
        diagnose_run(run, bins=0)
    record_dir(tmp_path / "empty")
    with pytest.raises(NothingRecorded, match="--record_rollouts false"):
        diagnose_run(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        diagnose_run(tmp_path / "absent")
