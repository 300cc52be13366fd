"""What all recipes do at their start: shorten a smoke, claim the run folder, say what the run is about to do."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar
from trl import ModelConfig, ScriptArguments

from rlft.checks import Checks
from rlft.disk import claim_writable
from rlft.processes import from_main
from rlft.tiny.tasks import SMOKE

SMOKE_STEPS = 5
RUNS, UNNAMED = "runs", (None, "trainer_output")
"""Where runs go without `--output_dir`, and its values then: TRL names a folder by itself."""


def start_clock(recipe: Any) -> float:
    """Set torch's threads to `recipe.torch_threads`, silence transformers' bars, and note the time."""
    started = time.perf_counter()
    if recipe.torch_threads:
        torch.set_num_threads(recipe.torch_threads)
    disable_progress_bar()  # a bar for each of the many small loads of weights
    return started


def shorten_task(data: ScriptArguments, model: ModelConfig) -> None:
    """For `--smoke`: an embedded task that gives both model and data becomes its quick form."""
    if model.model_name_or_path == data.dataset_name in SMOKE:
        model.model_name_or_path = data.dataset_name = SMOKE[str(data.dataset_name)]


def shorten_steps(training: Any) -> None:
    """For `--smoke`: `SMOKE_STEPS` steps, each logged, at the full learning rate from the first on."""
    training.max_steps = min(training.max_steps, SMOKE_STEPS) if training.max_steps > 0 else SMOKE_STEPS
    training.warmup_steps, training.logging_steps = 0, 1


def refuse_no_run(folder: str | None, identity: str) -> None:
    """Refuse `--resume_from_checkpoint true` where no run lies.

    Args:
        folder: the run folder.
        identity: the file in it that says what the run is.

    Raises:
        ValueError: naming the folder.
    """
    if folder is None or not (Path(folder) / identity).is_file():
        raise ValueError(
            f"--resume_from_checkpoint true: {folder} holds no run (no {identity}); set --output_dir to one, or leave "
            "the flag out to start afresh."
        )


def free_or_claimed_folder(name: str, training: Any, resume: bool) -> str:
    """The run folder, claimed by the main process and known to all; a free one of `runs/` if none is named."""
    chosen = training.output_dir
    if training.process_index == 0:
        if chosen in UNNAMED:
            chosen = _free_folder(name)
        claim_writable(chosen, resume)
    return str(from_main(chosen))


def _free_folder(name: str) -> str:
    """The first `runs/<name>-<n>` that does not exist, made at once so that no other run takes it."""
    number = 1
    while True:
        folder = Path(f"{RUNS}/{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return str(folder)


def print_table(training: Any, table: str, checks: Checks) -> None:
    """The main process prints the run folder, what the run is about to do, and what the checks warn of."""
    if training.process_index == 0:
        print("\n".join([f"run folder: {training.output_dir}", table, *checks.notes()]))  # noqa: T201


def configuration_of(recipe: Any, data: ScriptArguments, model: ModelConfig, training: Any) -> dict[str, Any]:
    """What `config.yaml` keeps of the parsed arguments."""
    return {
        "recipe": asdict(recipe),
        "data": asdict(data),
        "model": asdict(model),
        "training": training.to_dict(),
    }
