"""What the replay of a STOC run is like, in shares that are logged before the first step."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

DEGENERATE, ALIKE = ("empty", "repetition"), ("near_duplicate",)


class ReplayCallback(TrainerCallback):
    """Logs `replay_figures` when training starts, for the record and the health monitor.

    Args:
        trainer: a `STOCTrainer`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the first step of a run that starts."""
        figures = replay_figures(self.trainer.replay.folder)
        if state.global_step == 0 and figures:
            self.trainer.log(figures)


def replay_figures(folder: Path) -> dict[str, float]:
    """Shares of the replay in `folder` that are no good to learn from; what does not apply is left out.

    Args:
        folder: with `mix.json`, and `filter.json` if the model wrote the replay.

    Returns:
        Of the items written `replay/degenerate` (empty, or running in circles) and `replay/alike` (near-duplicates,
        where these were looked for); of the items in the mix `replay/repeats`, those that stand there already.
    """
    mix, found = _read(folder / "mix.json"), _read(folder / "filter.json")
    figures = {}
    for name, reasons in (("degenerate", DEGENERATE), ("alike", ALIKE)):
        counts = [found["dropped"][reason] for reason in reasons if reason in found.get("dropped", {})]
        if counts and found["written"]:
            figures[f"replay/{name}"] = sum(counts) / found["written"]
    if mix["replay_items"]:
        figures["replay/repeats"] = mix["repeats"] / mix["replay_items"]
    return figures


def _read(path: Path) -> Mapping[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}
