"""Does SHEAR credit learn faster, and why? Arms, seeds and learning rates on the needle, a constructed case.

    ./launch.sh python benchmarks/shear_study.py --folder runs/shear_study        all runs: about 140 CPU minutes
    ./launch.sh python benchmarks/shear_study.py --folder runs/shear_study --only-summary

Every run writes one line into a file of the folder and is skipped when its line is there, so a study that was stopped
goes on. The task is `rlft.tiny.needle`: of the tokens of a completion one decides. A run trains all weights of the
warmed-up model for 60 steps of 64 completions with TRL's defaults and a linear schedule, on one thread.

Fixed before the runs:
  pairs      warm-up seed s and RL seed 100 + s, s = 0..7, the same for every arm; s = 8..15 to confirm what screening
             with s = 0..3 suggested;
  area       mean sampled accuracy over the 60 training batches, the measure that arms are compared by;
  collapse   area < 0.2 (an untrained model has about 0.32); collapsed runs stay in every mean;
  rates      4e-4, 1e-3, 2e-3; an arm's best rate is the one with the best mean area, its collapses included;
  intervals  95 % t-intervals of paired differences; p of paired t-tests, Holm-corrected inside each table.
"""

import argparse
import json
import math
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from shear_arms import Arm
from shear_summary import STEADY, best_rates, draw, summarize
from transformers import PrinterCallback
from transformers.utils import logging

from rlft import SHEARConfig, SHEARTrainer
from rlft.compat import Rollouts
from rlft.evaluate.policy import evaluate_policy
from rlft.tiny.needle import Walk, gold_tag
from rlft.tiny.tasks import TASKS, NeedleTask

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "./launch.sh python benchmarks/shear_study.py --folder runs/shear_study"
STEPS, BATCH, HELD_OUT = 60, 64, 256
GENTLE, HARSH = 4e-4, 2e-3
FIRST, SCREEN, FRESH = range(8), range(3), range(8, 16)
CHOICE, REST = range(4), range(4, 8)
"""Pairs that an arm's rate is chosen on, and those that its best rate is run on besides."""
NEEDLES: dict[str, NeedleTask] = {
    "needle": TASKS["tiny/needle"],  # type: ignore[dict-item]
    "long": NeedleTask(Walk(letters=48), warm_up_steps=450),
    "wide": NeedleTask(Walk(letters=10, spacers=3), warm_up_steps=450),
    "echo": NeedleTask(Walk(letters=10, spacers=3, echo=True), warm_up_steps=450),
}
CORE = ["grpo", "1/rollout", "1/group", "1/mean_one", "shuffled", "random", "lexical", "oracle"]
WINDOWS = ["2/rollout", "4/rollout", "8/rollout", "1/mix"]
CAUSES = ["1/sides", "1/keep:side", "1/keep:side+rollout", "1/keep:side+token"]


@dataclass(frozen=True)
class Run:
    """What one run is: task, arm, peak learning rate, rollouts of a group, and its seeds."""

    task: str
    arm: str
    rate: float
    group: int
    seed: int

    @property
    def key(self) -> str:
        """Its name in the folder's file."""
        return f"{self.task} {self.arm} lr {self.rate:g} G {self.group} seed {self.seed}"


SWEPT = ["grpo", "1/rollout", "1/group", "1/mean_one", "1/mix", "oracle"]
CONTRASTS = ["1/contrast", "1/ratio", "2/contrast", "4/contrast", "8/contrast"]
CONTRASTS += ["1/contrast-mix", "2/contrast-mix", "4/contrast-mix"]
CONFIRMED = ["grpo", "1/rollout", "1/mix", "1/contrast-mix"]
PHASES: dict[str, tuple[str, list[str], tuple[float, ...], int, range]] = {
    "core": ("needle", CORE, (STEADY,), 16, FIRST),
    "contrasts": ("needle", CONTRASTS, (STEADY,), 16, SCREEN),
    "causes": ("needle", CAUSES, (STEADY,), 16, CHOICE),
    "rates": ("needle", SWEPT, (GENTLE, HARSH), 16, CHOICE),
    "windows": ("needle", WINDOWS, (STEADY,), 16, FIRST),
    "confirm": ("needle", CONFIRMED, (STEADY,), 16, FRESH),
    "wide": ("wide", ["grpo", "1/rollout", "5/rollout"], (GENTLE, STEADY), 16, SCREEN),
    "echo": ("echo", ["grpo", "1/rollout", "5/rollout", "10/rollout", "oracle"], (GENTLE, STEADY), 16, SCREEN),
    "large": ("needle", ["grpo", "1/rollout", "4/rollout", "1/contrast-mix"], (STEADY,), 32, SCREEN),
    "long": ("long", ["grpo", "1/rollout", "4/rollout", "1/contrast-mix"], (STEADY,), 16, SCREEN),
}
"""Task, arms, rates, group size and seeds. `best` completes the pairs of each arm's best rate."""
ALL = [*PHASES, "best"]
SPANS = ["2/rollout", "4/rollout", "8/rollout"]
AGAINST = ["grpo", "1/rollout"]
TABLES = {
    "needle": ("needle", STEADY, 16, FIRST, [*CORE, *WINDOWS], AGAINST),
    "fresh pairs": ("needle", STEADY, 16, FRESH, CONFIRMED, AGAINST),
    "all pairs": ("needle", STEADY, 16, range(16), ["grpo", "1/rollout", "1/mix"], AGAINST),
    "causes": ("needle", STEADY, 16, CHOICE, ["grpo", "1/rollout", "1/mean_one", *CAUSES], AGAINST),
    "own side": ("needle", STEADY, 16, SCREEN, ["grpo", "1/rollout", *SPANS, *CONTRASTS], AGAINST),
    "groups of 32": ("needle", STEADY, 32, SCREEN, PHASES["large"][1], AGAINST),
    "long": ("long", STEADY, 16, SCREEN, PHASES["long"][1], AGAINST),
    **{
        f"{name}, rate {rate:g}": (name, rate, 16, SCREEN, PHASES[name][1], AGAINST)
        for name in ("wide", "echo")
        for rate in (GENTLE, STEADY)
    },
}
"""Task, rate, group size, seeds, arms, and those that the others are compared with; p is corrected in a comparison."""


def planned(phase: str, done: list[dict[str, Any]]) -> Iterator[Run]:
    """All runs of a phase, the arms of a pair after one another."""
    if phase == "best":
        for arm, rate in best_rates(done, CHOICE).items():
            yield from (Run("needle", arm, rate, 16, seed) for seed in REST)
        return
    task, arms, rates, group, seeds = PHASES[phase]
    for seed in seeds:
        yield from (Run(task, arm, rate, group, seed) for rate in rates for arm in arms)


class StudyTrainer(SHEARTrainer):
    """A `SHEARTrainer` that tells its arm where the decisive token of each group to come is."""

    arm: Arm

    def annotate(self, inputs: list[dict[str, Any]], rollouts: Rollouts) -> Rollouts:
        self.arm.decisive = [row["decisive"] for row in inputs[:: self.num_generations]]
        return super().annotate(inputs, rollouts)


def train(run: Run, model: str, rows: Dataset, held_out: list[dict[str, Any]], scratch: str) -> dict[str, Any]:
    """Train one run from the warmed-up model; its figures."""
    arm = Arm(run.arm, run.seed)
    options = SHEARConfig(
        output_dir=scratch,
        credit="constant",
        record_rollouts=False,
        seed=100 + run.seed,
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=HELD_OUT,
        num_generations=run.group,
        max_completion_length=NEEDLES[run.task].walk.tokens + 2,
        learning_rate=run.rate,
        lr_scheduler_type="linear",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    options.credit = arm  # a function, which a command line could not give
    trainer = StudyTrainer(model=model, reward_funcs=[gold_tag], args=options, train_dataset=rows)
    trainer.arm = arm
    trainer.remove_callback(PrinterCallback)
    started = time.process_time()
    trainer.train()
    seconds = time.process_time() - started
    steps = [row for row in trainer.state.log_history if "reward" in row]
    after = {
        how: evaluate_policy(trainer, held_out, gold_tag, temperature=temperature)
        for how, temperature in (("sampled", 1.0), ("greedy", 0.0))
    }
    rewards = [float(row["reward"]) for row in steps]
    assert len(rewards) == STEPS
    assert not any(map(math.isnan, rewards))
    balances = [float(row["shear/sign_balance"]) for row in steps]
    return {
        **asdict(run),
        "area": sum(rewards) / STEPS,
        **after,
        "balance": sum(balances) / STEPS,
        "weight_std": sum(float(row["shear/weight_std"]) for row in steps) / STEPS,
        "cpu_seconds": seconds,
        "rewards": [round(reward, 4) for reward in rewards],
    }


def study(phase: str, folder: Path) -> None:
    """Train what the folder does not hold yet."""
    done = read(folder)
    known, data = {row["key"] for row in done}, {}
    with tempfile.TemporaryDirectory(prefix="shear-study-") as scratch:
        for run in planned(phase, done):
            if run.key in known:
                continue
            if run.task not in data:
                data[run.task] = tables(NEEDLES[run.task])
            model = NEEDLES[run.task].start(run.seed)
            figures = train(run, str(model), *data[run.task], scratch)
            with (folder / "runs.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": run.key, **figures}) + "\n")
            print(f"{phase}: {run.key}: area {figures['area']:.3f}", flush=True)


def tables(task: NeedleTask) -> tuple[Dataset, list[dict[str, Any]]]:
    """Training rows, and held-out rows with other prompts."""
    held_out = list({row["prompt"]: row for row in task.rows(HELD_OUT, 22)}.values())
    known = {row["prompt"] for row in held_out}
    return Dataset.from_list([row for row in task.rows(4000, 11) if row["prompt"] not in known]), held_out


def read(folder: Path) -> list[dict[str, Any]]:
    """The lines written so far."""
    file = folder / "runs.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def main() -> None:
    """Run the phases asked for, then sum up every line of the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the lines of the runs are kept")
    parser.add_argument("--phases", nargs="+", choices=ALL, default=ALL)
    parser.add_argument("--only-summary", action="store_true", help="train nothing")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/shear_study.json")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs/shear_study.png")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if not options.only_summary:
        torch.set_num_threads(1)
        disable_progress_bars()
        logging.disable_progress_bar()
        for phase in options.phases:
            study(phase, options.folder)
    rows = read(options.folder)
    summary = {"command": COMMAND, **summarize(rows, TABLES, CHOICE)}
    single = ",\n".join(
        json.dumps({name: value for name, value in row.items() if name not in ("key", "rewards")}) for row in rows
    )
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), json.dumps(summary, indent=1))
    options.output.write_text(f'{text[:-2]},\n "single_runs": [\n{single}\n]\n}}\n', encoding="utf-8")
    draw([row for row in rows if row["seed"] in FIRST], options.picture)


if __name__ == "__main__":
    main()
