"""What does recording cost? The share of a tiny step's processor time that writing every rollout and metric takes.

    ./launch.sh benchmarks/recording.py

GRPO (constant credit) on the embedded task with its recipe's batch: 128 completions of about 31 tokens a step, metrics
logged at every step, all of it recorded as the recipes do. The record's own functions are timed inside each step, so
that noise between runs does not matter: the share is their seconds over those of the whole step.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from learning import ROOT
from peft import LoraConfig
from turns import Stopwatch, ratio

import rlft.trainers.shear
from rlft import SHEARConfig, SHEARTrainer
from rlft.record.callback import RecordCallback
from rlft.rewards import load_rewards
from rlft.tiny.tasks import TASKS

WARM_UP = 3


class StepTimes(transformers.TrainerCallback):
    """Seconds by stage from one step's beginning to the next one's."""

    def __init__(self, watch: Stopwatch):
        self.watch = watch
        self.steps: list[dict[str, float]] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """The step before is over, its log too."""
        self.steps.append(self.watch.take())


def trainer_of(folder: str, steps: int) -> SHEARTrainer:
    """The recipe's run on the embedded task."""
    task: Any = TASKS["tiny/addition"]
    config = SHEARConfig(
        output_dir=folder, credit="constant", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        save_strategy="no", logging_steps=1, disable_tqdm=True, max_steps=steps, per_device_train_batch_size=128,
        num_generations=8, max_completion_length=40, learning_rate=1e-3,
    )  # fmt: skip
    return SHEARTrainer(
        model=str(task.start(0)),
        reward_funcs=load_rewards(["exact_match"]),
        args=config,
        train_dataset=Dataset.from_list(task.rows(4096, 0)),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


def main() -> None:
    """Train, time the record, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/recording.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    watch = Stopwatch(time.process_time)
    with tempfile.TemporaryDirectory() as folder:
        trainer, record, times = trainer_of(folder, arguments.steps + WARM_UP), RecordCallback(), StepTimes(watch)
        watch.watch(rlft.trainers.shear, "rollout_rows", "record")
        watch.watch(trainer.rollout_log, "append", "record")
        watch.watch(record, "on_log", "record")
        trainer.add_callback(record)
        trainer.add_callback(times)
        trainer.train()
        size = sum(path.stat().st_size for path in (Path(folder) / "record").iterdir())
    steps = times.steps[WARM_UP:]
    found = {
        "command": f"benchmarks/recording.py --steps {arguments.steps}",
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "clock": "process CPU",
        "steps": len(steps),
        "step_seconds": statistics.median(sum(step.values()) for step in steps),
        "record_seconds": statistics.median(step["record"] for step in steps),
        "share": ratio([step["record"] / sum(step.values()) for step in steps]),
        "bytes_a_completion": size / (128 * (arguments.steps + WARM_UP)),
    }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
