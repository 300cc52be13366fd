"""The learning curve: which rows count, and a PNG that shows what it should."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from rlft.record import draw_curve
from rlft.record.curve import _moving_average, _series

VERMILION, GREEN = (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)


def rows(count: int, **more: float) -> list[dict[str, Any]]:
    return [{"step": step, "reward": step / count} | more for step in range(1, count + 1)]


def pixels(path: Path) -> np.ndarray:
    return np.round(matplotlib.image.imread(path)[..., :3] * 255).astype(int)


def has_colour(path: Path, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels(path) - colour).max(-1) <= 3).any())


def test_the_picture_shows_reward_accuracy_and_entropy(tmp_path: Path) -> None:
    full = draw_curve(rows(40, entropy=0.3), tmp_path / "full.png", before=0.4, after=0.9, title="t")
    bare = draw_curve(rows(40), tmp_path / "bare.png")
    assert has_colour(full, VERMILION)
    assert has_colour(full, GREEN)
    assert not has_colour(bare, VERMILION)
    assert not has_colour(bare, GREEN)
    assert pixels(full).shape[1] >= 1000


def test_completion_length_stands_in_for_entropy(tmp_path: Path) -> None:
    assert has_colour(draw_curve(rows(3, **{"completions/mean_length": 31.0}), tmp_path / "c.png"), GREEN)


def test_one_step_and_zero_accuracy_are_drawn(tmp_path: Path) -> None:
    assert has_colour(draw_curve(rows(1), tmp_path / "c.png", after=0.0), VERMILION)


def test_rows_that_do_not_count(tmp_path: Path) -> None:
    metrics: list[dict[str, Any]] = [
        {"step": 2, "reward": 0.1},  # before a resume
        {"step": 1, "reward": 0.5, "entropy": None},
        {"step": 2, "reward": 0.7, "entropy": 0.2},
        {"step": 3, "reward": math.nan},
        {"step": 4, "reward": None},
        {"step": 4, "eval_reward": 1.0, "entropy": 9.0},
        {"step": 5, "train_loss": 0.0},
    ]
    assert _series(metrics, "reward") == ([1, 2], [0.5, 0.7])
    assert _series(metrics, "entropy") == ([2], [0.2])


def test_moving_average_against_numpy() -> None:
    values = list(np.random.default_rng(0).normal(size=20))
    expected = np.convolve(values, np.ones(5) / 5, mode="valid")
    assert _moving_average(values, 5)[4:] == pytest.approx(expected)
    assert _moving_average(values, 5)[1] == pytest.approx((values[0] + values[1]) / 2)
    assert _moving_average(values, 1) == pytest.approx(values)


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the 1 metrics rows.*--logging_steps"):
        draw_curve([{"step": 1, "train_loss": 0.2}], tmp_path / "c.png")


@pytest.fixture(autouse=True)
def backend_is_left_alone() -> Iterator[None]:
    before = matplotlib.rcParams["backend"]
    yield
    assert matplotlib.rcParams["backend"] == before
