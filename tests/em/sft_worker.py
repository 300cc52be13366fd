"""Weighted fine-tuning on CPU processes that share global batches of 8 rows, in two micro-batches each.

Run by test_weighted_sft.py: sft_worker.py OUTPUT, also under torchrun --nproc_per_node N.
"""

import os
import sys
from pathlib import Path

import torch

from rlft.em.weighted_sft import WeightedSFTTrainer
from tests.em.sft_cases import model, rows, settings, state_of, tokenizer


def main(output: str) -> None:
    torch.set_num_threads(1)
    args = settings(
        output,
        max_steps=-1,
        num_train_epochs=1,
        per_device_train_batch_size=8 // int(os.environ["WORLD_SIZE"]) // 2,
        gradient_accumulation_steps=2,
        ddp_find_unused_parameters=False,
    )
    trainer = WeightedSFTTrainer(model(), args, rows(count=37), processing_class=tokenizer())
    trainer.train()
    if trainer.accelerator.is_main_process:
        log = [[entry["loss"], entry["grad_norm"]] for entry in trainer.state.log_history if "loss" in entry]
        torch.save({"state": state_of(trainer), "log": log}, Path(output) / "result.pt")
    trainer.accelerator.end_training()
    sys.stdout.flush()
    os._exit(0)  # the result is on disk; gloo's threads can keep an interpreter from ending on a busy machine


if __name__ == "__main__":
    main(sys.argv[1])
