"""The DRO run of test_dro_processes.py in one of any number of processes, with 8 rows in an optimiser step.

Run by it: dro_worker.py FOLDER BASE, also under torchrun --nproc_per_node N.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from tests.trainers.dro_runs import STEPWISE, Finder, asked, bare, rows, trainer


def main(folder: Path, base: Path) -> None:
    torch.set_num_threads(1)
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    found = Finder(asked() + rows(4, 2))
    changes: dict[str, Any] = STEPWISE | {"per_device_train_batch_size": 8 // world, "retriever": found}
    trainer(folder, base, train=bare(asked()), dev=bare(rows(4, 2)), **changes).train()
    (folder / f"asked-{rank}.json").write_text(json.dumps(found.asked))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
