"""The progress bar: few lines, the ones that matter."""

from types import SimpleNamespace
from typing import Any

from rlft.record.progress import ShortProgress


class Bar:
    """Stands in for tqdm."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.postfix: dict[str, str] = {}

    def write(self, line: str) -> None:
        self.lines.append(line)

    def set_postfix(self, **values: str) -> None:
        self.postfix = values


def logged(*logs: dict[str, Any], main: bool = True) -> Bar:
    """The bar after a run of 150 steps that logged these."""
    progress = ShortProgress()
    progress.training_bar = bar = Bar()
    for step, values in enumerate(logs, start=1):
        state = SimpleNamespace(is_world_process_zero=main, global_step=step, max_steps=150)
        progress.on_log(None, state, None, logs=values)
    return bar


def test_about_fifteen_lines_a_run() -> None:
    bar = logged(*[{"reward": step / 150, "loss": 0.0} for step in range(150)])
    assert 15 <= len(bar.lines) <= 17
    assert bar.lines[0].split() == ["step", "1", "reward", "0"]
    assert bar.postfix == {"reward": "0.993"}


def test_accuracy_is_always_shown() -> None:
    bar = logged({"accuracy/before_sampled": 0.5, "accuracy/before_greedy": 0.25})
    assert bar.lines == ["held-out accuracy before sampled 0.500, before greedy 0.250"]


def test_dev_metrics_are_always_shown() -> None:
    bar = logged({"loss": 0.1}, {"eval_greedy_accuracy": 0.5, "eval_other": 0.25, "eval_rows": 16})
    assert bar.lines == ["step 2  dev greedy accuracy 0.500, other 0.250"]


def test_other_processes_are_silent() -> None:
    assert not logged({"reward": 1.0}, main=False).lines
