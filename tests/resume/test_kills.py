"""Processes killed for real at seeded moments go on as if nothing had happened: one of each trainer."""

import random
import signal
from pathlib import Path

import pytest

from tests.resume.killing import Undisturbed
from tests.resume.runs import METHODS

DRAWN = random.Random(11)
KILLS = [
    (method, signal.SIGTERM if number % 3 == 2 else signal.SIGKILL, DRAWN.uniform(0.6, 0.95))
    for number, method in enumerate(METHODS)
]
"""Late enough to be past the imports of the process, which are a part of its time."""


@pytest.mark.parametrize(("method", "how", "share"), KILLS, ids=METHODS)
def test_a_killed_run_ends_like_one_that_nobody_disturbed(
    method: str, how: signal.Signals, share: float, models: Path, tmp_path: Path
) -> None:
    kill = Undisturbed(tmp_path, models).kill(method, how, share, "killed")
    assert kill.good, kill
    if kill.ended != [0]:  # a run can be faster than the one before it
        assert kill.ended[0] in (-how, 128 + how)
