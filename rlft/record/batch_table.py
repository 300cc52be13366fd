"""How many prompts and completions a GRPO run takes at once."""

from typing import Any


def batch_rows(args: Any, processes: int) -> list[tuple[str, str]]:
    """The batch table of a run.

    Args:
        args: a `GRPOConfig`, or what a run saved of it.
        processes: number of training processes.

    Returns:
        (label, value) pairs.
    """
    completions = args.generation_batch_size
    update = args.per_device_train_batch_size * args.gradient_accumulation_steps * processes
    return [
        ("prompts per generation batch", f"{completions // args.num_generations}"),
        ("completions per prompt (group)", f"{args.num_generations}"),
        ("completions per generation batch", f"{completions}"),
        ("completions per optimiser step", f"{update}"),
        ("micro-batches per step, per process", f"{args.gradient_accumulation_steps}"),
        ("completions per micro-batch", f"{args.per_device_train_batch_size}"),
        ("steps on one generation batch", f"{completions * args.num_iterations // update}"),
        ("processes", f"{processes}"),
        ("optimiser steps", f"{args.max_steps}" if args.max_steps > 0 else f"{args.num_train_epochs} epochs"),
    ]
