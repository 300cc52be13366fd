"""Trainers that take turns in one process, step by step, and the seconds of each stage of a turn."""

import os
import random
import statistics
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import transformers
from trl import GRPOTrainer

STAGES = ("generation", "reward", "states", "weights", "record", "update")


class Stopwatch:
    """Seconds by stage, each without the stages inside it; what belongs to none is `update`."""

    def __init__(self, clock: Callable[[], float]):
        self.clock, self.running, self.mark = clock, ["update"], clock()
        self.seconds: dict[str, float] = defaultdict(float)

    def switch(self, stage: str | None) -> None:
        """Begin a stage inside the running one, or end the running one."""
        now = self.clock()
        self.seconds[self.running[-1]] += now - self.mark
        self.mark = now
        self.running = [*self.running, stage] if stage else self.running[:-1]

    def take(self) -> dict[str, float]:
        """Seconds since the last call."""
        self.switch(None)
        self.running = ["update"]
        seconds, self.seconds = self.seconds, defaultdict(float)
        return {stage: seconds[stage] for stage in STAGES}

    def watch(self, owner: Any, name: str, stage: str) -> None:
        """Count calls of `owner.name` as this stage."""
        inner = getattr(owner, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            self.switch(stage)
            try:
                return inner(*args, **kwargs)
            finally:
                self.switch(None)

        setattr(owner, name, outer)


class Arm:
    """A trainer in a thread of its own that makes one step when told to."""

    def __init__(self, trainer: GRPOTrainer, updates: int, watch: Stopwatch):
        self.updates, self.watch = updates, watch
        self._go, self._idle = threading.Semaphore(0), threading.Semaphore(0)
        arm = self

        class Wait(transformers.TrainerCallback):
            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                arm._idle.release()
                arm._go.acquire()

        trainer.add_callback(Wait())
        watch.watch(trainer, "_generate", "generation")
        watch.watch(trainer, "_calculate_rewards", "reward")
        if getattr(trainer, "states", None) is not None:
            for name in ("_finish", "of", "of_loss"):
                watch.watch(trainer.states, name, "states")  # type: ignore[attr-defined]
        if getattr(trainer, "rollout_log", None) is not None:
            watch.watch(trainer.rollout_log, "append", "record")  # type: ignore[attr-defined]
        self.trainer = trainer
        threading.Thread(target=self._run, daemon=True).start()
        self._idle.acquire()

    def turn(self) -> dict[str, float]:
        """Train on one generation batch; seconds by stage."""
        self.watch.take()
        for _ in range(self.updates):
            self._go.release()
            self._idle.acquire()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self.watch.take()

    def _run(self) -> None:
        torch.set_num_threads(1)
        try:
            self.trainer.train()
        except BaseException:
            os.abort()  # the main thread would wait for ever


def ratio(ratios: list[float], resamples: int = 2000) -> dict[str, float]:
    """Median and its 95 % bootstrap interval over turns."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(resamples))
    return {
        "median": statistics.median(ratios),
        "low": medians[int(0.025 * resamples)],
        "high": medians[int(0.975 * resamples)],
    }
