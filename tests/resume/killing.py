"""Kills runs for real at moments told by their processor time, resumes them, and compares what they leave."""

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlft.record.jsonl import read_jsonl
from rlft.record.rollouts import read_rollouts
from tests.resume.runs import METHODS, work
from tests.scripts import fork

EXACT = (
    *("*.safetensors", "*.arrow", "weights.jsonl", "dev.json", "dev-*", "trajectories-*", "lists-*", "scores-*"),
    *("mix.jsonl.gz", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
)
"""Files that a resumed run leaves byte for byte as one that nobody disturbed, wherever they lie."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Kill:
    """What was done to a run, and what came of it.

    Attributes:
        share: of the undisturbed run's processor time, after which the signal came.
        had: what the run had done by then.
        ended: exit codes of the killed process and of those that went on.
        lost: rows of the record that the undisturbed run has and this one has not.
        twice: rows that this one has and the undisturbed run has not, or not so often.
        different: files whose content is not the undisturbed run's.
    """

    method: str
    signal: str
    share: float
    had: str
    ended: list[int]
    lost: int
    twice: int
    different: list[str]

    @property
    def good(self) -> bool:
        """Whether the run ended as if nothing had happened."""
        return self.ended[-1] == 0 and not (self.lost or self.twice or self.different)


class Undisturbed:
    """Runs that nobody disturbs, one for each method, made when they are first asked for.

    Args:
        folder: where all runs go.
        models: from `write_models`.
    """

    def __init__(self, folder: Path, models: Path):
        self.folder, self.models = folder, models
        self._known: dict[str, tuple[float, dict[str, str], list[str]]] = {}

    def of(self, method: str) -> tuple[float, dict[str, str], list[str]]:
        """Processor seconds, digests of files, and rows of the record."""
        if method not in self._known:
            folder = self.folder / f"{method}-undisturbed"
            seconds, code = run(method, folder, self.models)
            assert code == 0, (folder.parent / f"{folder.name}.log").read_text()[-3000:]
            self._known[method] = (seconds, files(folder), rows(folder))
        return self._known[method]

    def kill(self, method: str, how: signal.Signals, share: float, name: str) -> Kill:
        """Kill a run, resume it to its end, and compare."""
        seconds, expected, recorded = self.of(method)
        folder = self.folder / name
        ended = [run(method, folder, self.models, share * seconds, how)[1]]
        had = stage(folder)
        if ended[0]:
            ended.append(run(method, folder, self.models)[1])
        found, again = files(folder), rows(folder)
        different = [name for name in {*expected, *found} if expected.get(name) != found.get(name)]
        lost, twice = excess(recorded, again), excess(again, recorded)
        return Kill(method, how.name, round(share, 3), had, ended, lost, twice, sorted(different))


def moments(count: int, seed: int) -> list[tuple[str, signal.Signals, float]]:
    """Methods in turn, a signal (every third is SIGTERM) and a random share of the run's time for each."""
    drawn, names = random.Random(seed), list(METHODS)
    signals = [signal.SIGTERM if number % 3 == 2 else signal.SIGKILL for number in range(count)]
    return [(names[number % len(names)], how, drawn.uniform(0.1, 1.0)) for number, how in enumerate(signals)]


def run(
    method: str, folder: Path, models: Path, limit: float = float("inf"), how: signal.Signals = signal.SIGKILL
) -> tuple[float, int]:
    """Run a method, or go on with it, to its end or until it has used so many processor seconds.

    Returns:
        Processor seconds used, and the exit code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    process: Any = fork(work, method, folder, models, folder.parent / f"{folder.name}.log")
    process.start()
    seconds, told = 0.0, False
    while process.is_alive():
        seconds = max(seconds, _processor_seconds(process.pid))
        if seconds >= limit and not told:
            os.kill(process.pid, how)
            told = True
        time.sleep(0.002)
    process.join()
    return seconds, process.exitcode


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def files(folder: Path) -> dict[str, str]:
    """Digests of what has to be exact."""
    found = sorted({path for pattern in EXACT for path in folder.rglob(pattern) if path.is_file()})
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def rows(folder: Path) -> list[str]:
    """All rows of the record but for what they say of time."""
    record = folder / "record"
    if not record.is_dir():
        return []
    logged = read_jsonl(record / "metrics.jsonl") if (record / "metrics.jsonl").exists() else []
    timeless = [{name: value for name, value in row.items() if not _of_time(name)} for row in logged]
    rolled = [{n: value for n, value in asdict(row).items() if not _of_time(n)} for row in read_rollouts(record)]
    return [json.dumps(row, sort_keys=True) for row in [*timeless, *rolled]]


def _of_time(name: str) -> bool:
    return any(part in name for part in ("time", "seconds", "per_second"))


def excess(some: Sequence[str], others: Sequence[str]) -> int:
    """How many rows of `some` stand less often in `others`; where that is none, they stand in the same order too."""
    left = list(others)
    missing = 0
    for row in some:
        if row in left:
            left.remove(row)
        else:
            missing += 1
    return missing


def stage(folder: Path) -> str:
    """What a killed run had done last."""
    steps = [path.parent.name for path in folder.rglob("checkpoint-*/manifest.json")]
    if steps:
        return sorted(steps, key=lambda name: int(name[11:]))[-1]
    stages = [json.loads(path.read_text()) for path in sorted(folder.rglob("manifest.json"))]
    names = [name for one in stages for name in one]
    return names[-1] if names else "begun" if (folder / "run.json").exists() else "nothing"
