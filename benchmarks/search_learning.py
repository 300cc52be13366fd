"""Does it learn to search? EXSEARCH and its controls on the embedded world, paired by seed, from the same warm-ups.

    ./launch.sh benchmarks/search_learning.py                 3 seeds x 5 arms, writes benchmarks/search_learning.json
    ./launch.sh benchmarks/search_learning.py --seeds 1       a quick look

Arms of EM (4 rounds of 128 questions x 8 trajectories, through the recipe that users run):
    exsearch     likelihood weights, questions whose best log-likelihood is below -1.6 dropped (the tiny setting)
    paper        the paper's weights as they stand: no floor
    rejection    equal weights for trajectories whose own answer is right
    uniform      equal weights: the control without any signal
and on the same rollouts:
    grpo         GRPO (SHEARTrainer, constant credit) with exact match as reward, 32 steps of 16 questions x 8: as many
                 trajectories as EM samples

Figures are of 256 held-out questions about people and companies that no training question asks about. "Mistakes" are
the demonstrator's two: a search that stops too early, or that asks about the wrong entity at the second hop.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from learning import ROOT, interval, timed
from rollout_batching import SEARCH

EM = {
    "exsearch": [],
    "paper": ["--min_best_loglik", "-1000000.0"],
    "rejection": ["--weighting", "rejection"],
    "uniform": ["--weighting", "uniform", "--min_best_loglik", "-1000000.0"],
}
ARMS = [*EM, "grpo"]
GRPO: dict[str, Any] = {
    "credit": "constant",
    "max_steps": 32,
    "per_device_train_batch_size": 128,
    "num_generations": 8,
    "max_completion_length": 200,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "linear",
    "warmup_steps": 3,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "report_to": "none",
    "logging_steps": 1,
    "disable_tqdm": True,
    "record_rollouts": False,
}
MEASURES = ("greedy_em", "sampled_em", "sampled_mistakes")


def warm_up(task: str, seed: int) -> dict[str, Any]:
    """The supervised warm-up that all arms of a seed start from."""
    code = "import torch; torch.set_num_threads(1); from rlft.tiny.tasks import TASKS; "
    return {"seed": seed, **timed([sys.executable, "-c", f"{code}TASKS['{task}'].start({seed})"])}


def em_run(arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run of the recipe; what its folders say. The last round counts, so that arms differ in weights only."""
    command = [sys.executable, str(ROOT / "recipes/exsearch.py"), "--seed", str(seed), "--output_dir", str(folder)]
    seconds = timed([*command, *EM[arm], "--metric_for_best_model", "round", "--disable_tqdm", "true"])
    rounds = [json.loads((folder / f"round-{number}/dev.json").read_text()) for number in range(5)]
    weights = [json.loads((folder / f"round-{number}/weights.json").read_text()) for number in range(1, 5)]
    return {
        "before": figures(evaluation(folder / "round-0")),
        "after": figures(evaluation(folder / "round-4")),
        "dev_by_round": [figures(metrics) for metrics in rounds],
        "ess_ratio_by_round": [weight["ess_ratio"] for weight in weights],
        "kept_by_round": [weight["kept"] / weight["questions"] for weight in weights],
        **seconds,
    }


def evaluation(folder: Path) -> dict[str, float]:
    """Metrics of the held-out questions in a round's folder."""
    (path,) = folder.glob("test-*.json")
    return json.loads(path.read_text())


def figures(metrics: dict[str, float]) -> dict[str, float]:
    """What is compared, of one evaluation."""
    mistakes = metrics["sampled_mistake/stop"] + metrics["sampled_mistake/wrong"]
    shown = ("greedy_em", "sampled_em", "greedy_retrieval_recall", "sampled_mistake/stop", "sampled_mistake/wrong")
    return {name: metrics[name] for name in shown} | {"sampled_mistakes": mistakes}


def grpo_run(seed: int, folder: Path) -> dict[str, Any]:
    """GRPO in a process of its own; it writes its figures to a file."""
    seconds = timed([sys.executable, __file__, "--grpo", str(seed), "--output", str(folder)])
    return json.loads(folder.read_text()) | seconds


def evaluate(trainer: Any, rollout: Any, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Greedy and sampled figures of the trainer's policy."""
    from rlft.evaluate.search_metrics import search_metrics
    from rlft.prepare_search import mistakes
    from rlft.rollouts.adapter import trainer_policy
    from rlft.rollouts.policy import GREEDY, Sampling

    metrics: dict[str, float] = {}
    with trainer_policy(trainer, batch_size=256) as policy:
        for mode, sampling in (("greedy", GREEDY), ("sampled", Sampling())):
            found = rollout(rows, policy, sampling)
            values = search_metrics(rows, found)
            for row, trajectory in zip(rows, found, strict=True):
                for name, value in mistakes(row, trajectory).items():
                    values[name] = values.get(name, 0.0) + value / len(rows)
            metrics |= {f"{mode}_{name}": value for name, value in values.items()}
    return figures(metrics)


def answered(completions: list[str], final_answer: list[str], golden_answers: list[list[str]], **_: Any) -> list[float]:
    """The reward: exact match of a search's final answer."""
    from rlft.evaluate.qa import exact_match

    return [exact_match(said or "", golds) for said, golds in zip(final_answer, golden_answers, strict=True)]


def train_grpo(seed: int, output: Path) -> None:
    """GRPO on search rollouts, with the model, data, LoRA and retriever of the tiny setting."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig

    from rlft import SHEARConfig, SHEARTrainer
    from rlft.retrieval import BM25Retriever
    from rlft.rollouts.adapter import as_rollout_func, trainer_policy
    from rlft.rollouts.frame import ChatFrame
    from rlft.rollouts.search import SearchRollout
    from rlft.rollouts.search_text import MARKERS, SearchOptions
    from rlft.tiny.tasks import TASKS

    torch.set_num_threads(1)
    task = TASKS["tiny/search"]
    test = task.rows(256, 11, "test")
    train = [
        {"prompt": row["question"], "golden_answers": row["golden_answers"]} for row in task.rows(512, 11, "train")
    ]

    with tempfile.TemporaryDirectory() as scratch:
        trainer = SHEARTrainer(
            model=str(task.start(seed)),
            reward_funcs=answered,
            args=SHEARConfig(output_dir=scratch, seed=seed, **GRPO),
            train_dataset=Dataset.from_list(train),
            peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"),
            rollout_func=lambda prompts, trainer: roll(prompts, trainer),
        )
        frame = ChatFrame(trainer.processing_class, markers=MARKERS)
        rollout = SearchRollout(frame, BM25Retriever.over(task.passages()), SearchOptions(**SEARCH))
        roll = as_rollout_func(rollout, policy=lambda trainer: trainer_policy(trainer, batch_size=256))
        before = evaluate(trainer, rollout, test)
        trainer.train()
        output.write_text(json.dumps({"before": before, "after": evaluate(trainer, rollout, test)}))


def summarize(runs: list[dict[str, Any]], arms: list[str], measures: tuple[str, ...]) -> dict[str, Any]:
    """Means by arm, and differences to the first arm, paired by seed."""
    by = {arm: {run["seed"]: run for run in runs if run["arm"] == arm} for arm in arms}
    first = arms[0]
    summary: dict[str, Any] = {}
    for arm, seeds in by.items():
        summary[arm] = {
            f"{when} {name}": interval([run[when][name] for run in seeds.values()])
            for when in ("before", "after")
            for name in measures
        }
        summary[arm]["cpu_seconds"] = interval([run["cpu_seconds"] for run in seeds.values()])
        if arm != first:
            summary[f"{arm} minus {first}"] = {
                name: interval([run["after"][name] - by[first][seed]["after"][name] for seed, run in seeds.items()])
                for name in measures
            }
    return summary


def main() -> None:
    """Run all arms and seeds, in turns so that drift of the machine falls on all arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/search_learning.json")
    parser.add_argument("--grpo", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.grpo is not None:
        train_grpo(options.grpo, options.output)
        return
    runs, warm_ups = [], []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["RLFT_CACHE"] = f"{scratch}/cache"
        for seed in range(options.seeds):
            warm_ups.append(warm_up("tiny/search", seed))
            for arm in ARMS:
                path = Path(scratch) / f"{arm}-{seed}"
                found = grpo_run(seed, path) if arm == "grpo" else em_run(arm, seed, path)
                runs.append({"arm": arm, "seed": seed, **found})
                print(json.dumps(runs[-1]), flush=True)
    result = {"command": "./launch.sh benchmarks/search_learning.py", "cores": os.cpu_count()}
    result |= {"warm_ups": warm_ups, "runs": runs, "summary": summarize(runs, ARMS, MEASURES)}
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error}; run that command by hand to see why.")
