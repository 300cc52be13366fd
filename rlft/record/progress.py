"""A progress bar for people: a short line now and then instead of thirty metrics a step (imports transformers)."""

from typing import Any

from transformers import ProgressCallback

SHOWN = {
    "reward": "reward",
    "completions/mean_length": "length",
    "shear/frac_dead_groups": "dead groups",
    "shear/weight_std": "credit spread",
    "grad_norm": "grad norm",
}
LINES = 15


class ShortProgress(ProgressCallback):
    """Shows the current reward at the bar, and about 15 lines over a run; `metrics.jsonl` has everything.

    Args:
        title: stands before the bar, which then vanishes when it is full: for one of many trainings of a run.
    """

    def __init__(self, title: str | None = None) -> None:
        super().__init__()
        self._title = title

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        super().on_train_begin(args, state, control, **kwargs)
        if self._title is not None and self.training_bar is not None:
            self.training_bar.set_description(self._title)
            self.training_bar.leave = False

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Write a line if it is time for one."""
        logs = logs or {}
        if not state.is_world_process_zero or self.training_bar is None:
            return
        for prefix, title in (("accuracy/", "held-out accuracy"), ("eval_", f"step {state.global_step}  dev")):
            measured = {name: value for name, value in logs.items() if name.startswith(prefix) and name != "eval_rows"}
            shown = ", ".join(f"{name.removeprefix(prefix)} {value:.3f}" for name, value in measured.items())
            if shown:
                self.training_bar.write(f"{title} {shown.replace('_', ' ')}")
        if "reward" not in logs:
            return
        self.training_bar.set_postfix(reward=f"{logs['reward']:.3f}")
        if state.global_step % max(state.max_steps // LINES, 1) == 0 or state.global_step == 1:
            shown = "  ".join(f"{label} {logs[name]:.3g}" for name, label in SHOWN.items() if name in logs)
            self.training_bar.write(f"step {state.global_step:>{len(str(state.max_steps))}}  {shown}")
