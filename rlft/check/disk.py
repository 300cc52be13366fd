"""Space that a run takes on the disk of its folder: checkpoints, what it saves at the end, and its record."""

import shutil
from typing import Any

from rlft.check.memory import Load, memory_of
from rlft.check.size import Size
from rlft.disk import existing

RECORD_BYTES = 8
"""Of a recorded token with its id, text and credit, compressed: an upper bound (the tiny runs take 2)."""


def checkpoint_bytes(size: Size, load: Load) -> int:
    """One checkpoint: what is trained, and its optimiser."""
    return saved_bytes(size, load) + memory_of(size, load).always.get("optimiser", 0)


def saved_bytes(size: Size, load: Load) -> int:
    """What is saved at the end: the adapter, or the model."""
    return memory_of(size, load).always["adapter" if size.adapter else "weights"]


def checkpoints_kept(args: Any, steps: int) -> int:
    """Checkpoints that lie on the disk together at most.

    Args:
        args: TRL's configuration.
        steps: optimiser steps of the run.
    """
    if str(getattr(args.save_strategy, "value", args.save_strategy)) == "no":
        return 0
    every = args.save_steps if args.save_steps >= 1 else max(1, int(args.save_steps * steps))
    made = max(1, int(steps // every))
    return made if args.save_total_limit is None else min(made, args.save_total_limit + 1)


def free_bytes(folder: str | None) -> int:
    """Free space where a folder is or would be made."""
    return shutil.disk_usage(existing(folder or ".")).free
