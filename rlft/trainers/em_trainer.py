"""The outside of an EM method: a folder that belongs to one run, rounds in it, the best one, evaluation of any."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from rlft.em.options import EMOptions
from rlft.em.rounds import best_round, questions_of, run_rounds
from rlft.em.stages import IDENTITY, Round
from rlft.record.stages import canonical, claim_identity
from rlft.resume.termination import says_on_termination
from rlft.trainers.em_config import FREE_TO_CHANGE
from rlft.trainers.rolls import Row
from rlft.trainers.round_health import RoundHealth

OF_TRAINING = (
    "seed", "data_seed", "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs",
    "warmup_steps", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
    "neftune_noise_alpha", "bf16", "fp16", "train_sampling_strategy",
)  # fmt: skip
"""Settings of the M-step that decide what is learnt."""


class EMTrainer:
    """Rounds of EM; a method says how a round starts, what it does and how it is validated.

    Args:
        args: the method's configuration: `EMOptions`, its own options, and TRL's.
        train_dataset: rows `{id, question, golden_answers}`, more columns welcome.
        eval_dataset: dev rows that choose the best round.
        on_round: `f(number, dev metrics)`, called after each round on the main process.

    Attributes:
        history: dev metrics by round, filled by `train`.
        best: the best round so far.
        options: the parts of the configuration that are not TRL's.
    """

    options: tuple[type, ...] = (EMOptions,)

    def __init__(
        self,
        args: Any,
        train_dataset: Dataset,
        eval_dataset: Dataset,
        on_round: Callable[[int, dict[str, float]], None] | None = None,
    ):
        self.args, self.train_dataset, self.eval_dataset, self.on_round = args, train_dataset, eval_dataset, on_round
        self.folder = Path(str(args.output_dir))
        self.history: list[dict[str, float]] = []
        self._claimed = False

    def check_rows(self, rows: Dataset, name: str) -> None:
        """Refuse questions that cannot be used with a ValueError."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to go on, beside what `settings_of` names."""
        raise NotImplementedError

    def prepared(self, current: Round, name: str, rows: Dataset) -> Sequence[Row]:
        """The rows as the rounds take them; what is made for them is a stage of `current`."""
        return rows

    def start(self, current: Round) -> None:
        """Make round 0."""
        raise NotImplementedError

    def step(self, current: Round, before: Round, origin: Round, rows: Sequence[Row]) -> None:
        """Do a round on `rows`: E-step with the model of `before`, M-step from that of `origin`."""
        raise NotImplementedError

    def validate(self, current: Round, name: str, rows: Sequence[Row]) -> None:
        """Metrics of a round on `rows`, into `<name>.json`; files it needs begin with `<name>-`."""
        raise NotImplementedError

    @property
    def best(self) -> int:
        """Number of the best round that is done.

        Raises:
            ValueError: if none is.
        """
        if not self.history:
            raise ValueError("no round is done yet; call train() first.")
        return best_round(self.history, str(self.args.metric_for_best_model), self.args.greater_is_better is not False)

    def claim_folder(self) -> None:
        """Make the run folder this run's own, before anything is written to it; `train` does so if nobody has.

        Raises:
            rlft.record.stages.AnotherRun: if it holds a run with other settings.
        """
        if not self._claimed:
            self.folder.mkdir(parents=True, exist_ok=True)
            claim_identity(self.folder / IDENTITY, self.settings() | self.identity())
            self._claimed = True

    def train(self, resume_from_checkpoint: str | bool | None = None) -> list[dict[str, float]]:
        """Run all rounds; where the folder holds this very run, go on with it.

        Args:
            resume_from_checkpoint: for the look of a TRL trainer; a folder with this run is gone on with in any case.

        Returns:
            Dev metrics by round.

        Raises:
            rlft.record.stages.AnotherRun: if the folder holds a run with other settings.
            rlft.em.rounds.NothingToLearn: if every question of a round was dropped.
            rlft.trainers.health.HealthError: with `on_alarm="stop"`, if a round or an M-step looks unhealthy.
            SystemExit: with code 143 after SIGTERM in an M-step, when a checkpoint is written.
        """
        self.claim_folder()
        with says_on_termination(f"every finished stage of the run in {self.folder} is kept"):
            return self._train()

    def _train(self) -> list[dict[str, float]]:
        self.history = []
        self.health = RoundHealth(self.folder, self.args)
        first = Round(self.folder, 0)
        train = self.prepared(first, "train", self.train_dataset)
        dev = list(self.prepared(first, "dev", self.eval_dataset))
        run_rounds(
            lambda number: self._round(number, train, dev),
            rounds=self.args.num_rounds,
            patience=self.args.patience,
            metric=str(self.args.metric_for_best_model),
            greater_is_better=self.args.greater_is_better is not False,
        )
        return self.history

    def _round(self, number: int, train: Sequence[Row], dev: Sequence[Row]) -> dict[str, float]:
        current = Round(self.folder, number)
        if number == 0:
            self.start(current)
        else:
            before = Round(self.folder, number - 1)
            origin = Round(self.folder, 0) if self.args.restart_from_warm_up else before
            chosen = questions_of(number, len(train), self.args.questions_per_round, self.args.seed)
            self.step(current, before, origin, [train[index] for index in chosen])
        metrics = {**self._validated(current, "dev", dev), "round": number}
        self.history.append(metrics)
        if self.on_round and PartialState().is_main_process:
            self.on_round(number, metrics)
        self.health.see(current, metrics, len(dev))
        return metrics

    def _validated(self, current: Round, name: str, rows: Sequence[Row]) -> dict[str, float]:
        work = lambda: self.validate(current, name, rows)  # noqa: E731
        current.stage(f"validate {name}", work, f"{name}-*", f"{name}.json")
        return json.loads((current.folder / f"{name}.json").read_text())

    def evaluate(self, eval_dataset: Dataset, *, name: str = "test", round: int | None = None) -> dict[str, float]:
        """Metrics of a round's model on other questions, kept in the round's folder under `name`.

        Args:
            eval_dataset: rows as for training.
            name: of the evaluation; a second call with the same rows gives what the first one found.
            round: which; None is the best.

        Raises:
            ValueError: for questions that cannot be used, or a round that was not done.
        """
        self.check_rows(eval_dataset, "eval_dataset")
        number = self.best if round is None else round
        if not (self.folder / f"round-{number}").is_dir():
            raise ValueError(f"{self.folder} has no round {number}; train first, or name a round that was done.")
        current, name = Round(self.folder, number), f"{name}-{fingerprint(list(eval_dataset))[:8]}"
        return self._validated(current, name, list(self.prepared(current, name, eval_dataset)))

    def settings(self) -> dict[str, Any]:
        """The configuration's share of what must be equal for a run to go on."""
        args = self.args
        own = dict.fromkeys(option.name for options in self.options for option in fields(options))
        names = [*OF_TRAINING, *(name for name in own if name not in FREE_TO_CHANGE)]
        settings = args.to_dict()
        rows = {"train": self.train_dataset, "dev": self.eval_dataset}
        return {
            **{name: settings[name] for name in names if name in settings},
            "rows_per_step": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
            **{f"{name}_rows": fingerprint(list(data)) for name, data in rows.items()},
        }


def fingerprint(content: Any) -> str:
    """Digest of anything, the same in every process."""
    return hashlib.blake2b(canonical(content).encode(), digest_size=16).hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Of a tokenizer's vocabulary and chat template."""
    return fingerprint([tokenizer.get_vocab(), tokenizer.chat_template])
