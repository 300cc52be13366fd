"""Fifty kills: runs of all five trainers, killed at random moments and resumed, end like runs that nobody disturbed.

    ./launch.sh benchmarks/kills.py                      50 runs, two of three ended by SIGKILL, the third by SIGTERM
    ./launch.sh benchmarks/kills.py --count 10 --seed 1  others

The runs are those of tests/resume/runs.py: random models of two layers, checkpoints every second step. A moment is a
share of the processor time that the undisturbed run took, so it does not depend on what else the machine does; the
signal comes from outside, wherever the process then is. Compared with the undisturbed run: weights, optimiser,
scheduler and random states of the last checkpoints, everything that EM and replay wrote, byte for byte, and every row
of the record but its times.
"""

import argparse
import json
import platform
from collections import Counter
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.resume.killing import Undisturbed, moments
from tests.resume.runs import write_models
from tests.scripts import SERVER

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Kill, resume, compare, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/kills.json")
    arguments = parser.parse_args()
    SERVER.set_forkserver_preload(["tests.resume.runs"])
    with TemporaryDirectory() as folder:
        undisturbed = Undisturbed(Path(folder), write_models(Path(folder) / "models"))
        kills = []
        for number, (method, how, share) in enumerate(moments(arguments.count, arguments.seed)):
            kills.append(undisturbed.kill(method, how, share, f"{number}-{method}"))
            print(number, kills[-1], flush=True)
    found = {
        "command": f"benchmarks/kills.py --count {arguments.count} --seed {arguments.seed}",
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
        "kills": len(kills),
        "by_signal": dict(Counter(kill.signal for kill in kills)),
        "ended_before_the_signal": sum(kill.ended == [0] for kill in kills),
        "ended_like_the_undisturbed_run": sum(kill.good for kill in kills),
        "rows_lost": sum(kill.lost for kill in kills),
        "rows_twice": sum(kill.twice for kill in kills),
        "files_different": sum(len(kill.different) for kill in kills),
        "runs": [asdict(kill) for kill in kills],
    }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: value for name, value in found.items() if name != "runs"}, indent=1))


if __name__ == "__main__":
    main()
