"""Steps of SHEAR and of PrLM on any number of CPU processes, with the same 24 rollouts a batch each time.

Run by test_losses.py: loss_worker.py MODEL SCORER OUTPUT PROCESSES, also under torchrun.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from rlft import PrLMConfig, PrLMTrainer, SHEARConfig, SHEARTrainer
from tests.shared import ON_CPU
from tests.trainers.conftest import PROMPTS, parity
from tests.trainers.prlm_runs import SAID, training_rows

ROWS = 24


def settings(output: str, processes: int) -> dict[str, Any]:
    """Two steps on each of two batches, so that ratios leave 1, with a penalty that sees where the policy went."""
    return {
        "output_dir": output,
        **ON_CPU,
        "max_steps": 4,
        "num_iterations": 2,
        "beta": 0.1,
        "learning_rate": 1e-2,
        "max_completion_length": 32,
        "per_device_train_batch_size": ROWS // processes,
        "num_generations": 8,
        "ddp_find_unused_parameters": False,
    }


def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """Completions that depend on the global row only, of many lengths: processes pad differently."""
    tokenizer, first = trainer.processing_class, trainer.accelerator.process_index * len(prompts)
    texts = [SAID[row % len(SAID)][: 32 - row % 5] for row in range(first, first + len(prompts))]
    return {
        "prompt_ids": [tokenizer(prompt).input_ids for prompt in prompts],
        "completion_ids": [tokenizer(text).input_ids for text in texts],
        "logprobs": None,
    }


def losses(trainer: Any) -> list[float]:
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def main(model: str, scorer: str, output: str, processes: int) -> None:
    torch.set_num_threads(1)
    prompts = Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS * 16])
    shear = SHEARConfig(window=4, stride=2, **settings(f"{output}/shear", processes))
    prlm = PrLMConfig(scorer=scorer, answer_key="title", **settings(f"{output}/prlm", processes))
    built = {
        "shear": SHEARTrainer(model, parity, shear, train_dataset=prompts, rollout_func=rollout),
        "prlm": PrLMTrainer(model, args=prlm, train_dataset=training_rows(), rollout_func=rollout),
    }
    found = {name: losses(trainer) for name, trainer in built.items()}
    if shear.process_index == 0:
        (Path(output) / "losses.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
