"""The picture of EM rounds: which values count, what is shown, and what is refused."""

import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from rlft.record.rounds_curve import _STACK, _series, _shares, draw_rounds
from rlft.rollouts.list_text import ListFault

BLUE, VERMILION, GREEN = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)
ORANGE, PURPLE = (0xE6, 0x9F, 0x00), (0xCC, 0x79, 0xA7)


def rounds(**more: float) -> list[dict[str, float]]:
    return [{"greedy_em": em, "sampled_em": em - 0.1, "ess_ratio": em} | more for em in (0.5, 0.8, 0.95)]


def shown(path: Path, *colours: tuple[int, int, int]) -> list[bool]:
    pixels = np.round(matplotlib.image.imread(path)[..., :3] * 255).astype(int)
    assert pixels.shape[1] >= 1000
    return [bool((np.abs(pixels - colour).max(-1) <= 3).any()) for colour in colours]


def test_lines_and_shares_are_drawn_where_rows_carry_them(tmp_path: Path) -> None:
    mistakes = {"sampled_mistake/stop": 0.2, "sampled_mistake/wrong": 0.1}
    full = draw_rounds(rounds(**mistakes), tmp_path / "full.png", "t")
    bare = draw_rounds([{"greedy_em": 0.5}, {"greedy_em": 0.6}], tmp_path / "bare.png")
    lists = draw_rounds(rounds(**{"greedy_recall@1": 0.4, "sampled_fault/prose": 0.1}), tmp_path / "lists.png")
    colours = (BLUE, VERMILION, GREEN, ORANGE, PURPLE)
    assert shown(full, *colours) == [True, True, False, True, True]
    assert shown(bare, *colours) == [True, False, False, False, False]
    assert shown(lists, *colours) == [True, True, True, True, False]


def test_each_fault_has_a_colour_of_its_own(tmp_path: Path) -> None:
    faults = {f"sampled_fault/{fault}": 0.1 for fault in ListFault}
    colours = [(int(c[1:3], 16), int(c[3:5], 16), int(c[5:], 16)) for c in _STACK[: len(faults)]]
    assert len(set(colours)) == len(faults) == 8
    assert all(shown(draw_rounds(rounds(**faults), tmp_path / "c.png"), *colours))


def test_one_round_is_drawn(tmp_path: Path) -> None:
    assert shown(draw_rounds([{"sampled_em": 0.0}], tmp_path / "c.png"), VERMILION) == [True]


def test_which_values_count() -> None:
    rows = [
        {"round": 1, "greedy_em": 0.4},
        {"round": 0, "greedy_em": 0.2},
        {"round": 1, "greedy_em": 0.6},  # done again after a kill
        {"round": 2, "greedy_em": math.nan},
        {"round": 3, "greedy_em": None},
        {"round": 4},
    ]
    assert _series(rows, "greedy_em") == ([0, 1], [0.2, 0.6])


def test_mistakes_go_before_ends() -> None:
    rows = [{"round": 0, "sampled_finish/stop": 1.0}, {"round": 1, "sampled_mistake/stop": 0.25}]
    assert _shares(rows)[0] == {"stop": {1: 0.25}}
    assert _shares(rows[:1])[0] == {"stop": {0: 1.0}}
    assert _shares([{"round": 0}]) == ({}, "")


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the 1 rounds has a finite 'greedy_em' or 'sampled_em'"):
        draw_rounds([{"ess_ratio": 0.3}], tmp_path / "c.png")


@pytest.fixture(autouse=True)
def backend_is_left_alone() -> Iterator[None]:
    before = matplotlib.rcParams["backend"]
    yield
    assert matplotlib.rcParams["backend"] == before
