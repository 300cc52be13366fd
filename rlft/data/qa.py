"""Questions with gold answers, from any of the usual open-domain sets to rows `{id, question, golden_answers, ...}`.

The row is FlashRAG's, the field's common one. `gold_titles` stands beside it where the set names its gold passages.
Rows that cannot be used are left out and counted by reason; what is malformed is an error that names file and line.
"""

from collections import Counter
from typing import NamedTuple

from datasets import Dataset

from rlft.data.prompts import DataError, listed
from rlft.data.qa_layouts import LAYOUTS, Rejected, read_row, recognise
from rlft.data.qa_sources import Row, Rows, open_splits


class Questions(NamedTuple):
    """What was read."""

    train: Dataset
    held_out: Dataset
    rejects: dict[str, int]
    """Rows left out, by `split: reason`."""


def load_questions(
    name: str,
    *,
    config: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
    held_out: int = 0,
    limit: int | None = None,
    layout: str | None = None,
) -> Questions:
    """Training questions and held-out questions.

    Args:
        name: a `.jsonl`, `.json` or `.parquet` file, a folder of such files (one per split; the split's words stand
            in the file's name, as in `hotpot_train_v1.1.json`), or a Hub id.
        config: configuration name of a Hub data set.
        train_split: split trained on. The only split there is may have any name.
        test_split: split held out; of a source with one split, the last `held_out` rows are held out instead.
        held_out: held-out rows wanted; 0 takes the whole test split, or none where there is only one split.
        limit: training rows wanted, the first ones; None takes all.
        layout: a key of `rlft.data.qa_layouts.LAYOUTS`; None recognises it from the columns of each split's first row.

    Returns:
        `(train, held_out, rejects)`. Rows have `id` (unique in their split), `question`, `golden_answers` (at least
        one), `gold_titles` if any row names titles, and the source's other columns less its passages. A training row
        whose question is held out, by its words without regard to case, is left out and counted.

    Raises:
        DataError: on a missing file or split, a line that is not a JSON object, a column of the wrong type, an
            unknown layout, or a split that yields no row (with the reasons).
    """
    if layout is not None and layout not in LAYOUTS:
        raise DataError(f"layout {layout!r} is unknown; it is one of {listed(LAYOUTS)}, or None to recognise it.")
    if held_out < 0:
        raise DataError(f"held_out is {held_out}; it counts rows (0 takes the whole test split).")
    sources = open_splits(name, config, train_split, test_split)
    rejects: Counter[str] = Counter()
    splits = {split: _usable(name, split, rows, layout, rejects) for split, rows in sources.items()}
    train, *tests = splits.values()
    if tests:
        test = tests[0][: held_out or None]
    else:
        cut = max(len(train) - held_out, 0)
        train, test = train[:cut], train[cut:]
    train = _not_held_out(train, test, next(iter(splits)), rejects)[:limit]
    if not train:
        why = f" ({_said(rejects)})" if rejects else ""
        raise DataError(
            f"{name}: no row is left to train on, {len(test)} are held out{why}; lower --eval_rows, set "
            "--dataset_test_split, or give more data."
        )
    titled = any(row["gold_titles"] for row in train + test)
    columns = [column for column in _columns(train + test) if titled or column != "gold_titles"]
    return Questions(_dataset(name, train, columns), _dataset(name, test, columns), dict(rejects))


def _usable(name: str, split: str, rows: Rows, layout: str | None, rejects: Counter[str]) -> list[Row]:
    usable: dict[str, Row] = {}
    for number, (place, row) in enumerate(rows):
        layout = layout or _recognised(row, place)
        try:
            read = read_row(row, layout, f"{split}-{number}")
            if read["id"] in usable:
                raise Rejected("duplicate id")
            usable[read["id"]] = read
        except Rejected as reason:
            rejects[f"{split}: {reason}"] += 1
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # nested columns of an unknown shape
            said = error if isinstance(error, ValueError) else repr(error)
            raise DataError(f"{place} does not fit the layout {layout!r}: {said}") from error
    if not usable:
        raise DataError(f"{name}: no row of split {split!r} can be used ({_said(rejects)}); is it a hidden test set?")
    return list(usable.values())


def _recognised(row: Row, place: str) -> str:
    layout = recognise(row)
    if layout is None:
        raise DataError(
            f"{place}: columns {listed(row)} fit no known layout ({listed(LAYOUTS)}); rename them to 'id', "
            "'question' and 'golden_answers' (a list), or set --layout."
        )
    return layout


def _not_held_out(train: list[Row], test: list[Row], split: str, rejects: Counter[str]) -> list[Row]:
    known = {_key(row) for row in test}
    kept = [row for row in train if _key(row) not in known]
    if len(kept) < len(train):
        rejects[f"{split}: question is held out"] += len(train) - len(kept)
    return kept


def _key(row: Row) -> str:
    return " ".join(row["question"].casefold().split())


def _said(rejects: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in rejects.items()) or "no rows were read"


def _columns(rows: list[Row]) -> list[str]:
    first = ("id", "question", "golden_answers", "gold_titles")
    return [*first, *(column for column in dict.fromkeys(key for row in rows for key in row) if column not in first)]


def _dataset(name: str, rows: list[Row], columns: list[str]) -> Dataset:
    try:
        return Dataset.from_dict({column: [row.get(column) for row in rows] for column in columns})
    except (ValueError, TypeError) as error:  # pyarrow's errors are of these kinds
        raise DataError(
            f"{name}: a column of {listed(columns)} changes its type from row to row ({error}); remove it, or give "
            "every row the same type."
        ) from error
