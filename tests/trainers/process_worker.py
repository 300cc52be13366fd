"""One training step on any number of CPU processes, with the same 12 rollouts whatever their number.

Run by test_processes.py: process_worker.py MODEL OUTPUT ROWS_PER_PROCESS, also under torchrun --nproc_per_node N.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from rlft import SHEARConfig, SHEARTrainer
from rlft.trainers.trust import TrustCallback
from tests.trainers.conftest import PROMPTS, parity


def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """Completions that depend on the global row only, of lengths 5 to 16: processes pad differently."""
    tokenizer, first = trainer.processing_class, trainer.accelerator.process_index * len(prompts)
    texts = [
        "".join(chr(97 + (row * 7 + i * i) % 26) for i in range(5 + row)) for row in range(first, first + len(prompts))
    ]
    return {
        "prompt_ids": [tokenizer(prompt).input_ids for prompt in prompts],
        "completion_ids": [tokenizer(text).input_ids for text in texts],
        "logprobs": None,
    }


class Saving(SHEARTrainer):
    """Keeps what the loss will see."""

    def annotate(self, inputs: list[dict[str, Any]], rollouts: dict[str, Any]) -> dict[str, Any]:
        rollouts = super().annotate(inputs, rollouts)
        masked = zip(rollouts["advantages"], rollouts["completion_mask"], strict=True)
        self.seen = [advantage_T[mask_T.bool()].tolist() for advantage_T, mask_T in masked]
        return rollouts


def main(model: str, output: str, rows: int) -> None:
    torch.set_num_threads(1)
    config = SHEARConfig(
        output_dir=output,
        window=4,
        stride=2,
        exclude_answer=True,
        answer_marker="z",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        max_steps=1,
        per_device_train_batch_size=rows,
        num_generations=4,
        max_completion_length=16,
        ddp_find_unused_parameters=False,
    )
    prompts = Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS * 16])
    trainer = Saving(model, parity, config, train_dataset=prompts, rollout_func=rollout, callbacks=[TrustCallback()])
    trainer.train()
    result = {"advantages": trainer.seen, "log": trainer.state.log_history[0] if trainer.state.log_history else {}}
    torch.save(result, Path(output) / f"rank-{trainer.accelerator.process_index}.pt")
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
