"""What a model learns after it was trained, the old data it knows, and questions about both."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rlft.data.json_rows import Row, iter_json_rows
from rlft.data.knowedit import read_knowedit
from rlft.data.prompts import DataError
from rlft.tiny.biography_task import BiographyTask
from rlft.tiny.people import PAPER, People

OLD, NEW = "old", "new"
PHASES = NEW, OLD


class Continual(NamedTuple):
    """Rows to learn, and what is asked before and after."""

    new: list[Row]
    """`{id, text}` or `{id, prompt, completion}`, with `subject` where it is known."""
    old: list[Row]
    """What the model was trained on, or some of it, in the same form; empty where it is gone."""
    probes: dict[str, list[Row]]
    """Rows `{prompt, answer}` or `{prompt, answers}` by set, `old` and `new`; a set that is not known is left out."""
    left_out: dict[str, int]
    """Facts of the file that give no row, by reason."""
    people: People | None = None
    """Whose facts they are, where all that is true is known."""


def biography_rows(task: BiographyTask, phase: str, seed: int, *, with_old: bool) -> Continual:
    """Biographies of one phase, with probes about the people of both.

    Args:
        task: the people.
        phase: `new`, or `old` for the training that comes first.
        seed: of wordings.
        with_old: whether to give a biography of each old person too.

    Raises:
        DataError: for another phase.
    """
    if phase not in PHASES:
        raise DataError(f"phase {phase!r} is none of {', '.join(PHASES)}.")
    return Continual(
        task.rows(task.largest(phase), seed, phase),
        task.kept(seed) if with_old else [],
        {which: task.probes(which, seed) for which in (OLD, NEW)},
        {},
        task.world(),
    )


def paper_task(old: int, new: int, copies: int) -> BiographyTask:
    """Biographies with the paper's lists of names, places and wordings, of so many people.

    Raises:
        ValueError: for more people than names, or less than one of anything.
    """
    if copies < 1:
        raise ValueError(f"--copies {copies}: a person has at least one biography.")
    return BiographyTask(replace(PAPER, old=old, new=new), copies)


def file_rows(
    path: str,
    *,
    layout: str | None = None,
    old: str | None = None,
    new_probes: str | None = None,
    old_probes: str | None = None,
) -> Continual:
    """Rows of files: of KnowEdit, which come with their probes, or of one's own.

    A fact of KnowEdit is learnt as the text `prompt answer`, once for each of its answers.

    Args:
        path: a file of KnowEdit, or rows `{text}` or `{prompt, completion}`, with `id` and `subject` if they have any.
        layout: of KnowEdit, as for `read_knowedit`; None takes a file for KnowEdit's if its records have `locality`.
        old: file of old data, in the form of rows of one's own.
        new_probes: file of rows `{prompt, answer}` or `{prompt, answers}`, in the place of KnowEdit's.
        old_probes: the same about what is known.

    Raises:
        DataError: naming the file and the line of what cannot be used.
    """
    left_out: dict[str, int] = {}
    probes: dict[str, list[Row]] = {}
    _, first = next(iter_json_rows(Path(path)), ("", None))
    if first is None:
        raise DataError(f"{path} holds no rows.")
    if layout is not None or "locality" in first:
        facts = read_knowedit(path, layout)
        left_out, probes = facts.rejects, {OLD: facts.old, NEW: facts.new}
        new = [
            {"id": f"{row['id']}/{number}", "subject": row["subject"], "text": f"{row['prompt']} {answer}"}
            for row in facts.new
            for number, answer in enumerate(row["answers"])
        ]
    else:
        new = _texts(path)
    asked = {name: _probes(file) for name, file in ((OLD, old_probes), (NEW, new_probes)) if file is not None}
    return Continual(new, _texts(old) if old is not None else [], probes | asked, left_out)


def some(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """A random choice of `count` rows in their order; all of them if `count` is 0 or more than there are."""
    if not 0 < count < len(rows):
        return list(rows)
    return [rows[place] for place in sorted(random.Random(seed).sample(range(len(rows)), count))]


def _texts(path: str) -> list[Row]:
    found: list[Row] = []
    for place, row in iter_json_rows(Path(path)):
        forms = [form for form in (("text",), ("prompt", "completion")) if all(_is_text(row, name) for name in form)]
        if not forms:
            raise DataError(
                f"{place} has columns {', '.join(row) or 'none'}; a row to learn has a text that is not blank in "
                "'text', or in 'prompt' and 'completion' (KnowEdit's records have 'locality', or name their --layout)."
            )
        kept = {name: row[name] for name in forms[0]}
        found.append({"id": _id(row, len(found))} | kept | ({"subject": row["subject"]} if row.get("subject") else {}))
    return found


def _probes(path: str) -> list[Row]:
    found: list[Row] = []
    for place, row in iter_json_rows(Path(path)):
        answers = row["answers"] if "answers" in row else [row.get("answer")]
        fine = isinstance(answers, list) and answers and all(isinstance(one, str) and one.strip() for one in answers)
        if not fine or not _is_text(row, "prompt"):
            raise DataError(f"{place}: a probe has a text in 'prompt' and in 'answer', or a list of them in 'answers'.")
        kept = {name: row[name] for name in ("prompt", "answer", "answers", "subject") if name in row}
        found.append({"id": _id(row, len(found))} | kept)
    return found


def _is_text(row: Row, name: str) -> bool:
    return isinstance(row.get(name), str) and bool(row[name].strip())


def _id(row: Row, number: int) -> str:
    return str(number if row.get("id") is None else row["id"])
