"""Two processes have the losses of one, step by step. Of EXSEARCH, DRO and STOC the tests of their processes say so."""

import json
from pathlib import Path

import pytest

from tests import scripts
from tests.trainers.prlm_runs import write_scorer
from tests.trainers.processes import assert_same_losses

WORKER = Path(__file__).parent / "loss_worker.py"
Losses = dict[str, list[float]]


@pytest.fixture(scope="module")
def both(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Losses, Losses]:
    folder = tmp_path_factory.mktemp("losses")
    scorer, found = write_scorer(folder / "scorer"), []
    for processes in (1, 2):
        output = folder / str(processes)
        output.mkdir()
        given = (str(random_model), str(scorer), str(output), str(processes))
        finished = scripts.run(WORKER, *given, processes=processes)
        assert finished.returncode == 0, finished.stderr[-3000:]
        found.append(json.loads((output / "losses.json").read_text()))
    return found[0], found[1]


@pytest.mark.parametrize("method", ["shear", "prlm"])
def test_two_processes_have_the_losses_of_one(method: str, both: tuple[Losses, Losses]) -> None:
    one, two = both
    assert len(one[method]) == 4
    assert_same_losses(one[method], two[method])
