"""Does it learn? GRPO and SHEAR on careless addition, paired by seed, through the recipe that users run.

    ./launch.sh benchmarks/learning.py                 5 seeds x 2 arms, writes benchmarks/learning.json
    ./launch.sh benchmarks/learning.py --seeds 1       a quick look

Held-out accuracy comes from the run's record. Seconds are those of whole processes, start-up and both evaluations
included; the supervised warm-up, shared by both arms of a seed, is measured apart. Intervals are 95 % t-intervals over
seeds.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
ARMS = {"grpo": ["--credit", "constant"], "shear": ["--credit", "shear"]}


def timed(command: list[str]) -> dict[str, float]:
    """Run a command; its wall and CPU seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_seconds": time.perf_counter() - started, "cpu_seconds": cpu}


def warm_up(seed: int) -> dict[str, Any]:
    """The supervised warm-up that both arms of a seed start from."""
    code = "import torch; torch.set_num_threads(1); from rlft.tiny.tasks import TASKS; "
    return {"seed": seed, **timed([sys.executable, "-c", f"{code}TASKS['tiny/addition'].start({seed})"])}


def one_run(arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train one arm with one seed; what its record says."""
    command = [sys.executable, str(ROOT / "recipes/shear.py"), "--seed", str(seed), "--output_dir", str(folder)]
    seconds = timed([*command, *ARMS[arm], "--disable_tqdm", "true"])
    rows = [json.loads(line) for line in (folder / "record/metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "reward" in row]
    accuracy = {key: value for row in rows for key, value in row.items() if key.startswith("accuracy/")}
    return {
        "arm": arm,
        "seed": seed,
        "steps": len(steps),
        "before_sampled": accuracy["accuracy/before_sampled"],
        "after_sampled": accuracy["accuracy/after_sampled"],
        "before_greedy": accuracy["accuracy/before_greedy"],
        "after_greedy": accuracy["accuracy/after_greedy"],
        "mean_reward": sum(row["reward"] for row in steps) / len(steps),
        "step_seconds": sum(row["step_time"] for row in steps) / len(steps),
        "credit_seconds": sum(row["shear/credit_seconds"] for row in steps) / len(steps),
        "sign_balance": sum(row["shear/sign_balance"] for row in steps) / len(steps),
        **seconds,
    }


def interval(values: list[float]) -> dict[str, float]:
    """Mean with its 95 % t-interval."""
    mean = sum(values) / len(values)
    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)) if len(values) > 1 else float("nan")
    return {"mean": mean, "low": mean - half, "high": mean + half}


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means by arm, and the paired difference SHEAR - GRPO by seed."""
    by = {arm: {run["seed"]: run for run in runs if run["arm"] == arm} for arm in ARMS}
    measures = ("before_sampled", "after_sampled", "before_greedy", "after_greedy", "mean_reward", "cpu_seconds")
    summary: dict[str, Any] = {
        arm: {measure: interval([run[measure] for run in seeds.values()]) for measure in measures}
        for arm, seeds in by.items()
    }
    summary["shear_minus_grpo"] = {
        measure: interval([by["shear"][seed][measure] - by["grpo"][seed][measure] for seed in by["grpo"]])
        for measure in ("after_sampled", "after_greedy", "mean_reward")
    }
    return summary


def main() -> None:
    """Run all arms and seeds, in turns so that drift of the machine falls on both arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/learning.json")
    options = parser.parse_args()
    runs, warm_ups = [], []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["RLFT_CACHE"] = f"{scratch}/cache"
        for seed in range(options.seeds):
            warm_ups.append(warm_up(seed))
            for arm in ARMS:
                runs.append(one_run(arm, seed, Path(scratch) / f"{arm}-{seed}"))
                print(json.dumps(runs[-1]), flush=True)
    result = {
        "command": "./launch.sh benchmarks/learning.py",
        "cores": os.cpu_count(),
        "warm_ups": warm_ups,
        "runs": runs,
    }
    result["summary"] = summarize(runs)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    main()
