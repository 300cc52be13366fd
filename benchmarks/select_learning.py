"""Does it learn to select? DRO, its two halves and its rivals on the embedded world, paired by seed, same warm-ups.

    ./launch.sh benchmarks/select_learning.py                 3 seeds x 8 arms, writes benchmarks/select_learning.json
    ./launch.sh benchmarks/select_learning.py --seeds 1       a quick look

Every arm is the recipe that users run: 6 rounds of 128 questions x 8 lists, likelihood weights, questions whose best
log-likelihood is below -1.6 dropped; but for
    frozen-selector    only the generator learns
    frozen-generator   only the selector learns
    paper              no floor: the paper's weights as they stand
    support            identical lists share one place in the weights, however often they were sampled
    uniform            equal weights, no floor: the control without any signal
    grpo               the selector learns from advantages of the same lists, the generator as ever; a learning rate of
                       1e-3, the best of 3e-3 (at which it collapses), 1e-3 and 5e-4 for it
    released           one list a question, so that every weight is 1, of 1,024 questions: as many lists

Figures are of 256 held-out questions about people that no training question asks about. The careless pair's mistakes
are mistakes of sampling (its likeliest list is often right), so the sampled figures are those that matter.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from learning import ROOT, timed
from search_learning import evaluation, summarize, warm_up

NO_FLOOR = ["--min_best_loglik", "-1000000.0"]
ARMS = {
    "dro": [],
    "frozen-selector": ["--freeze_selector", "true"],
    "frozen-generator": ["--freeze_generator", "true"],
    "paper": NO_FLOOR,
    "support": ["--dedup", "support"],
    "uniform": ["--weighting", "uniform", *NO_FLOOR],
    "grpo": ["--selector_objective", "grpo", "--learning_rate", "1e-3", "--max_dropped", "1.0"],
    "released": ["--num_generations", "1", "--questions_per_round", "1024", *NO_FLOOR],
}
ROUNDS = 6
MEASURES = ("sampled_em", "greedy_em", "sampled_recall@1", "greedy_recall@1")
WEIGHTS = ("ess_ratio", "kept", "questions", "loglik_spread", "permutation_entropy", "invalid_rate")


def run(arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run of the recipe; what its folders say. The last round counts, so that arms differ in nothing else."""
    command = [sys.executable, str(ROOT / "recipes/dro.py"), "--seed", str(seed), "--output_dir", str(folder)]
    settings = ["--num_rounds", str(ROUNDS), "--metric_for_best_model", "round", "--disable_tqdm", "true"]
    seconds = timed([*command, *settings, *ARMS[arm]])
    rounds = [json.loads((folder / f"round-{number}/dev.json").read_text()) for number in range(ROUNDS + 1)]
    weights = [json.loads((folder / f"round-{number}/weights.json").read_text()) for number in range(1, ROUNDS + 1)]
    return {
        "arm": arm,
        "seed": seed,
        "before": figures(evaluation(folder / "round-0")),
        "after": figures(evaluation(folder / f"round-{ROUNDS}")),
        "dev_by_round": [figures(metrics) for metrics in rounds],
        "weights_by_round": [{name: weight[name] for name in WEIGHTS} for weight in weights],
        **seconds,
    }


def figures(metrics: dict[str, float]) -> dict[str, float]:
    """What is compared, of one evaluation."""
    return {name: metrics[name] for name in (*MEASURES, "sampled_recall@2", "sampled_invalid_rate")}


def main() -> None:
    """Run all arms and seeds, in turns so that drift of the machine falls on all arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/select_learning.json")
    options = parser.parse_args()
    runs, warm_ups = [], []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["RLFT_CACHE"] = f"{scratch}/cache"
        for seed in range(options.seeds):
            warm_ups.append(warm_up("tiny/select", seed))
            for arm in ARMS:
                runs.append(run(arm, seed, Path(scratch) / f"{arm}-{seed}"))
                print(json.dumps(runs[-1]), flush=True)
    result = {"command": "./launch.sh benchmarks/select_learning.py", "cores": os.cpu_count()}
    result |= {"warm_ups": warm_ups, "runs": runs, "summary": summarize(runs, list(ARMS), MEASURES)}
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error}; run that command by hand to see why.")
