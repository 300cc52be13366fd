"""A short EXSEARCH run on any number of CPU processes, 16 rows an optimiser step whatever their number.

Run by test_exsearch_processes.py:  torchrun --nproc_per_node N search_worker.py OUTPUT
"""

import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState

from tests.trainers.search_runs import trainer


def main(output: Path) -> None:
    torch.set_num_threads(1)
    share = 16 // int(os.environ["WORLD_SIZE"])
    run = trainer(output, per_device_train_batch_size=share, ddp_find_unused_parameters=False)
    run.train()
    run.save_model()
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
