"""The embedded tasks by name: rows to train on, and a warm start for them.

A task name can be given as `--model_name_or_path`, as `--dataset_name`, or both.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rlft.tiny import addition

WARM_UP_SEED = 1_000
"""Added to the seed of the warm-up problems, to keep them apart from those of training and evaluation."""


@dataclass(frozen=True)
class TinyTask:
    """An embedded task: digits of its additions, and optimiser steps of its warm-up."""

    digits: int
    warm_up_steps: int

    def rows(self, count: int, seed: int) -> list[dict[str, str]]:
        """`count` rows `{prompt, answer}`; the same seed gives the same rows."""
        return addition.rows(count, seed, self.digits)

    def start(self, seed: int) -> Path:
        """Folder of a model warmed up on careless demonstrations; trained the first time, then found in the cache."""
        from rlft.tiny.warmup import SCHEDULE, warm_up

        count = self.warm_up_steps * SCHEDULE["per_device_train_batch_size"]
        rows = addition.demonstrations(count, WARM_UP_SEED + seed, self.digits)
        return warm_up(
            f"addition-{self.digits}", rows, seed=seed, schedule={**SCHEDULE, "max_steps": self.warm_up_steps}
        )


TASKS = {
    "tiny/addition": TinyTask(digits=3, warm_up_steps=250),
    "tiny/addition-1": TinyTask(digits=1, warm_up_steps=60),
}
SMOKE = {"tiny/addition": "tiny/addition-1"}
"""What `--smoke` puts in the place of a task whose warm-up takes too long."""

LAUNCHER_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_",
    "GROUP_",
    "ROLE_",
    "MASTER_",
    "TORCHELASTIC_",
    "ACCELERATE_",
    "FSDP_",
)


def warm_start(name: str, seed: int) -> Path:
    """Folder of the warmed-up model of an embedded task, the same for every process of a run.

    In a run of several processes the training is done by a child outside the process group: TRL's trainer would wait
    for processes that wait for it.

    Args:
        name: a key of `TASKS`.
        seed: of the warm-up.

    Returns:
        The folder.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        alone = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHER_VARIABLES)}
        code = "import sys; from rlft.tiny.tasks import TASKS; TASKS[sys.argv[1]].start(int(sys.argv[2]))"
        subprocess.run([sys.executable, "-c", code, name, str(seed)], env=alone, check=True)
    return TASKS[name].start(seed)
