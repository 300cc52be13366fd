"""Held-out metrics of a policy by how many past items its prompts show and by who chose them, before and after.

Every setting asks the same rows, so that two settings, or two moments, are compared on pairs of answers. Completions
are kept in `record/held_out_<when>.jsonl`: `{"id", "retriever", "k", "completion"}`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlft.evaluate.personal import Measured, bootstrap, paired_bootstrap
from rlft.evaluate.policy import for_each_prompt
from rlft.record.folder import record_dir, write_whole
from rlft.record.jsonl import json_lines, read_jsonl
from rlft.rewards.text import last_text

Measure = Callable[[Sequence[str], Sequence[Mapping[str, Any]]], dict[str, Measured]]
"""(completions, rows) -> metrics by name."""


@dataclass(frozen=True)
class Setting:
    """One way of asking the held-out rows."""

    retriever: str
    """Who chose the past items; `none` where none are shown."""
    k: int
    prompts: Sequence[Any]
    """One for each row."""

    @property
    def name(self) -> str:
        """`bm25, k=2`."""
        return f"{self.retriever}, k={self.k}"


class ByProfiles(TrainerCallback):
    """Evaluates every setting when training begins, and whenever asked. Every process takes part.

    Args:
        trainer: a `GRPOTrainer`.
        rows: N held-out rows with `id` and what `measure` reads.
        settings: the first is that of training; its metrics are logged.
        measure: the metrics.
        temperature: of the completions; 0 is greedy.
        seed: of the sampling and of the bootstrap.

    Attributes:
        results: by moment (`before`, `after`), the metrics of each setting.
    """

    def __init__(
        self,
        trainer: Any,
        rows: Sequence[Mapping[str, Any]],
        settings: Sequence[Setting],
        measure: Measure,
        *,
        temperature: float,
        seed: int = 0,
    ):
        self.trainer, self.rows, self.settings, self.measure = trainer, rows, settings, measure
        self.temperature, self.seed = temperature, seed
        self.results: dict[str, list[dict[str, Measured]]] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Metrics before the first step; a run that goes on from a checkpoint has them in its record."""
        if not state.global_step:
            self.evaluate("before")
            return
        if not self._file("before").is_file():
            raise ValueError(
                f"{self._file('before')} is missing, and at step {state.global_step} the policy can no longer be asked "
                "as it was before training: go on in the run's own --output_dir, or set --eval_rows 0."
            )
        self._judge("before", self._said())

    def evaluate(self, when: str) -> None:
        """Metrics now, into `results`, the record and the log."""
        said = [text for setting in self.settings for text in self._completions(setting.prompts)]
        if self.trainer.accelerator.is_main_process:
            write_whole(self._file(when), json_lines(self._lines(said)))
        self._judge(when, said)
        first = {f"held_out/{when}_{name}": measured.value for name, measured in self.results[when][0].items()}
        self.trainer.log(first)

    def values(self) -> dict[str, float]:
        """Metrics of the first setting now and the number of `rows`, neither kept nor logged."""
        said = self._completions(self.settings[0].prompts)
        metrics = {name: measured.value for name, measured in self.measure(said, self.rows).items()}
        return metrics | {"rows": len(self.rows)}

    def table(self) -> list[dict[str, Any]]:
        """For each setting its metrics before and after with intervals, and the paired change; JSON-able."""
        return [
            {"retriever": setting.retriever, "k": setting.k, "rows": len(self.rows), "metrics": self._intervals(place)}
            for place, setting in enumerate(self.settings)
        ]

    def _intervals(self, place: int) -> dict[str, dict[str, dict[str, float]]]:
        before, after = self.results["before"][place], self.results["after"][place]
        users = [str(row.get("user_id") or f"row {number}") for number, row in enumerate(self.rows)]
        intervals = {
            name: {
                "before": bootstrap(before[name], users=users, seed=self.seed),
                "after": bootstrap(after[name], users=users, seed=self.seed),
                "change": paired_bootstrap(after[name], before[name], users=users, seed=self.seed),
            }
            for name in after
        }
        return {name: {when: one._asdict() for when, one in of.items()} for name, of in intervals.items()}

    def _said(self) -> list[str]:
        """Completions before the first step, as the record has them."""
        lines = read_jsonl(self._file("before"))
        wanted = self._lines([""] * len(self.rows) * len(self.settings))
        names = ("id", "retriever", "k")
        if [[line.get(name) for name in names] for line in lines] != [
            [line[name] for name in names] for line in wanted
        ]:
            raise ValueError(
                f"{self._file('before')} holds completions of other rows, retrievers or numbers of items: go on with "
                "the settings that the run began with."
            )
        return [line["completion"] for line in lines]

    def _judge(self, when: str, said: Sequence[str]) -> None:
        count = len(self.rows)
        self.results[when] = [
            self.measure(said[place * count : (place + 1) * count], self.rows) for place in range(len(self.settings))
        ]

    def _completions(self, prompts: Sequence[Any]) -> list[str]:
        return for_each_prompt(
            self.trainer,
            prompts,
            lambda _, completions: map(last_text, completions),
            temperature=self.temperature,
            seed=self.seed,
        )

    def _lines(self, said: Sequence[str]) -> Iterable[dict[str, Any]]:
        asked = [(setting, *pair) for setting in self.settings for pair in zip(self.rows, setting.prompts, strict=True)]
        for (setting, row, prompt), text in zip(asked, said, strict=True):
            yield {
                "id": row["id"],
                "retriever": setting.retriever,
                "k": setting.k,
                "prompt": prompt,
                "completion": text,
            }

    def _file(self, when: str) -> Path:
        return record_dir(str(self.trainer.args.output_dir)) / f"held_out_{when}.jsonl"
