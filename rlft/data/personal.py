"""Rows of personalised generation for a whole run: to train on with rewards, to build pairs from, and held out.

No row is in two of these: a reward model that had seen answers to a prompt of the training would know them by heart.
Imports no torch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlft.data.lamp import Row, read_lamp
from rlft.data.lamp_profiles import Histories
from rlft.data.lamp_tasks import LampTask
from rlft.data.prompt_templates import PromptTemplates
from rlft.data.prompts import DataError
from rlft.tiny import style, tasks

_SEEDS = {"train": 11, "pairs": 12, "held_out": 22}

Broken = Callable[[Iterable[str]], Mapping[str, str]]
"""Texts -> by text, the same with control strings of the policy's tokenizer broken."""


@dataclass(frozen=True)
class Wanted:
    """How many rows of each sort."""

    train: int
    """0 takes all that pairs leave."""
    pairs: int
    held_out: int

    def __post_init__(self) -> None:
        if min(self.train, self.pairs, self.held_out) < 0:
            raise DataError(f"{self} counts rows, none below 0.")


@dataclass(frozen=True)
class PersonalRows:
    """What was read: rows `{id, user_id, query, profile, gold, answer, ...}`; `answer` is what rewards compare with."""

    name: str
    """Of the task, for which a reward model is trained: `LaMP_4`, `tiny/style`."""
    train: list[Row]
    pairs: list[Row]
    held_out: list[Row]
    wording: LampTask | PromptTemplates
    """Of the prompts."""
    left_out: dict[str, int]
    """Rows and items that cannot be used, by split and reason."""

    @property
    def lamp(self) -> LampTask | None:
        """The task of LaMP, None for an embedded one."""
        return self.wording if isinstance(self.wording, LampTask) else None

    def without(self, seen: Callable[[Row], bool], reason: str) -> "PersonalRows":
        """Without the rows to train on that were seen before, which are counted.

        Raises:
            DataError: if none is left.
        """
        train = [row for row in self.train if not seen(row)]
        left_out = len(self.train) - len(train)
        if not train:
            raise DataError(
                f"none of {left_out} rows to train on is left: {reason}. Give the --train_rows and --pair_rows of the "
                "run that made it, or other data."
            )
        return replace(self, train=train, left_out=self.left_out | {reason: left_out}) if left_out else self

    def answer_key(self, wanted: str | None) -> str | None:
        """Under which key the prompts ask for the answer: LaMP's own, or what is wanted of an embedded task.

        Raises:
            DataError: if another key than LaMP's is wanted.
        """
        if self.lamp is None:
            return wanted
        if wanted not in (None, self.lamp.answer_key):
            raise DataError(
                f"--answer_key {wanted}: prompts of {self.name} ask for an answer under {self.lamp.answer_key!r}, and "
                "none would be found under another key; leave the option out."
            )
        return self.lamp.answer_key


def style_rows(name: str, wanted: Wanted, items: int) -> PersonalRows:
    """Rows of the embedded task of style; held-out rows are of users that are in no other.

    Args:
        name: a key of `rlft.tiny.tasks.TASKS`.
        wanted: how many.
        items: past items of a row.

    Raises:
        DataError: if another task is named, or no training rows are wanted.
    """
    task = tasks.TASKS[name]
    if not isinstance(task, tasks.StyleTask):
        known = ", ".join(key for key, each in tasks.TASKS.items() if isinstance(each, tasks.StyleTask))
        raise DataError(f"--dataset_name {name} has no users with past items; embedded with such: {known}.")
    if wanted.train < 1:
        raise DataError(f"--train_rows {wanted.train}: {name} has rows without end; say how many.")
    counts = {"train": wanted.train, "pairs": wanted.pairs, "held_out": wanted.held_out}
    found = {
        sort: task.rows(count, _SEEDS[sort], "test" if sort == "held_out" else "train", items=items) if count else []
        for sort, count in counts.items()
    }
    return PersonalRows("tiny/style", **found, wording=PromptTemplates(**style.WORDING), left_out={})


def held_out_split(folder: str | Path, wanted: str) -> str:
    """The split to hold out: what is wanted, or `dev` for a `test` without outputs, as LaMP publishes it."""
    places = ("test_outputs.json", "test/test_outputs.json")
    golds = any((Path(folder) / place).is_file() for place in places)
    return "dev" if wanted == "test" and not golds else wanted


def lamp_rows(folder: str | Path, task: int | None, splits: Sequence[str], wanted: Wanted) -> PersonalRows:
    """Rows of a folder of LaMP.

    Args:
        folder: such as `LaMP_4_time`.
        task: 1 to 7.
        splits: trained on, and held out.
        wanted: how many; training rows are the first ones of their split, pairs are built from the next ones.

    Raises:
        DataError: as `read_lamp`, and if there are too few rows, the splits are one, or golds are hidden.
    """
    if task is None:
        raise DataError(f"--dataset_name {folder} is taken for a folder of LaMP; say which task it holds with --task.")
    if not Path(folder).is_dir():  # one file would be read for both splits
        raise DataError(f"--dataset_name {folder}: no such folder, nor an embedded data set such as tiny/style.")
    if splits[0] == splits[1]:
        raise DataError(f"--dataset_train_split and --dataset_test_split are both {splits[0]!r}; hold another one out.")
    histories: Histories = {}
    limit = wanted.train + wanted.pairs if wanted.train else None
    train = read_lamp(folder, task, splits[0], limit=limit, histories=histories)
    left_out = {f"{splits[0]}: {reason}": count for reason, count in train.rejected.items()}
    held_out: list[Row] = []
    if wanted.held_out:
        read = read_lamp(folder, task, splits[1], limit=wanted.held_out, histories=histories)
        left_out |= {f"{splits[1]}: {reason}": count for reason, count in read.rejected.items()}
        held_out = [_answered(row, splits[1], "--dataset_test_split") for row in read.rows]
    rows = [_answered(row, splits[0], "--dataset_train_split") for row in train.rows]
    first = wanted.train or max(len(rows) - wanted.pairs, 0)
    if not 0 < first <= len(rows) - wanted.pairs:
        raise DataError(
            f"{folder} has {len(rows)} usable rows in {splits[0]!r}; --train_rows {wanted.train} (0: all that is left) "
            f"and --pair_rows {wanted.pairs} are apart and need more. Lower one of them."
        )
    pairs = rows[first : first + wanted.pairs]
    return PersonalRows(f"LaMP_{task}", rows[:first], pairs, held_out, train.task, left_out)


def harmless(rows: PersonalRows, broken: Broken) -> PersonalRows:
    """The same rows with queries that hold no control strings; golds and answers stay as they are.

    Args:
        rows: what was read.
        broken: breaks control strings.
    """
    train, pairs, held_out = (
        _harmless(of, ("query", "input"), broken) for of in (rows.train, rows.pairs, rows.held_out)
    )
    return replace(rows, train=train, pairs=pairs, held_out=held_out)


class HarmlessChooser:
    """A chooser of past items that gives them without control strings: what is shown is what users wrote.

    Only the items that are chosen are read, which are few of a long history.

    Args:
        chooser: with `choose(rows, k)` and `counts`, such as `rlft.retrieval.profiles.ProfileChooser`.
        broken: breaks control strings.
    """

    def __init__(self, chooser: Any, broken: Broken) -> None:
        self.counts = chooser.counts
        self._chooser, self._broken = chooser, broken

    def choose(self, rows: Sequence[Mapping[str, Any]], k: int) -> list[list[Row]]:
        """As the chooser's own."""
        chosen = self._chooser.choose(rows, k)
        items = iter(_harmless([item for of_row in chosen for item in of_row], ("text", "target"), self._broken))
        return [[next(items) for _ in of_row] for of_row in chosen]


def _harmless(rows: Sequence[Mapping[str, Any]], names: Sequence[str], broken: Broken) -> list[Row]:
    found = broken([row[name] for row in rows for name in names if row.get(name) is not None])
    return [{**row} | {name: found[row[name]] for name in names if row.get(name) is not None} for row in rows]


def _answered(row: Row, split: str, flag: str) -> Row:
    if row["gold"] is None:
        raise DataError(
            f"{split!r} has no {split}_outputs.json, and {flag} needs golds: name train or dev, or put that file "
            "beside the questions."
        )
    return row | {"answer": row["gold"]}
