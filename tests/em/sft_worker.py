"""Weighted fine-tuning on any number of CPU processes, with the same global batches whatever their number.

Run by test_weighted_sft.py:  torchrun --nproc_per_node N sft_worker.py OUTPUT GLOBAL_BATCH ACCUMULATION
"""

import sys
from pathlib import Path

import torch
from accelerate import PartialState

from rlft.em.weighted_sft import WeightedSFTTrainer
from tests.em.sft_cases import model, rows, settings, state_of, tokenizer


def main(output: str, batch: int, accumulation: int) -> None:
    torch.set_num_threads(1)
    processes = PartialState().num_processes
    args = settings(
        output,
        per_device_train_batch_size=batch // processes // accumulation,
        gradient_accumulation_steps=accumulation,
        ddp_find_unused_parameters=False,
        train_sampling_strategy="sequential",
    )
    trainer = WeightedSFTTrainer(model(), args, rows(), processing_class=tokenizer())
    trainer.train()
    if trainer.accelerator.is_main_process:
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        torch.save({"state": state_of(trainer), "log": log}, Path(output) / "result.pt")
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
