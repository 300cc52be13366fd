"""Two processes go on exactly, each with its own rollouts and random states; another number of them is refused."""

from pathlib import Path

from tests import scripts
from tests.resume.killing import files, rows

WORKER = Path(__file__).parent / "worker.py"


def work(folder: Path, models: Path, how: str = "", processes: int = 2) -> tuple[int, str]:
    finished = scripts.run(WORKER, str(folder), str(models), *([how] if how else []), processes=processes)
    return finished.returncode, finished.stderr


def test_two_processes_go_on_exactly_and_one_is_refused(models: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder, how in ((whole, ""), (killed, "5")):
        code, said = work(folder, models, how)
        assert code == 0, said[-3000:]
    code, said = work(killed, models, "resume", processes=1)
    assert code != 0
    assert "processes was 2, is 1" in said
    code, said = work(killed, models, "resume")
    assert code == 0, said[-3000:]
    assert f"the run goes on from {killed}/checkpoint-4" in said
    assert sorted(path.name for path in (killed / "checkpoint-6").glob("progress_*")) == [
        "progress_0.pt",
        "progress_1.pt",
    ]
    assert rows(killed) == rows(whole)
    assert files(killed) == files(whole)
