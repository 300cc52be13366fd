"""How question-answering sets are laid out: where each keeps its answers and the titles of its gold passages.

    flashrag   id, question, golden_answers, metadata                      jinjiajie/FlashRAG, all of its data sets
    hotpotqa   _id | id, question, answer, supporting_facts                Yang et al. 2018
    2wiki      as hotpotqa, and evidences, answer_id                       Ho et al. 2020
    musique    id, question, answer, answer_aliases, answerable, paragraphs  Trivedi et al. 2022
    nq         question, answer (a text or a list)                         Lee et al. 2019 (NQ-open)

Nested columns come in three dresses: as published (`[[title, sentence], ...]`), as the Hub's column form
(`{"title": [...], "sent_id": [...]}`), and as JSON text in a string column. All are read.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Row = Mapping[str, Any]

PASSAGES = frozenset({"context", "paragraphs"})
"""Columns of passages that a question comes with. Only retrieval should bring passages, so they are not kept."""


class Rejected(Exception):
    """A row that is left out; the message is the reason that it is counted under."""


class Layout(NamedTuple):
    """One way to lay out a question."""

    marks: frozenset[str]
    """Columns that no layout further down the table has: one of them gives the layout away."""
    answers: Callable[[Row], list[Any]]
    titles: Callable[[Row], list[str]]
    consumed: frozenset[str]
    """Columns that `golden_answers` and `gold_titles` replace."""


def recognise(row: Row) -> str | None:
    """Name of the layout that a row is in, by its columns; None if it is in none."""
    return next((name for name, layout in LAYOUTS.items() if "question" in row and layout.marks & row.keys()), None)


def read_row(row: Row, layout: str, fallback_id: str) -> dict[str, Any]:
    """A row as `{id, question, golden_answers, gold_titles, ...}`; other columns stay, passages do not.

    Args:
        row: a row as published.
        layout: a key of `LAYOUTS`.
        fallback_id: the id of a row that has none.

    Raises:
        Rejected: if the row cannot be trained on, or is marked unanswerable.
        ValueError: if a column holds what its layout does not allow.
    """
    form, metadata = LAYOUTS[layout], row.get("metadata")
    question = row.get("question")
    if question is not None and not isinstance(question, str):
        raise ValueError(f"'question' holds {question!r}, not a text.")
    if not question or not question.strip():
        raise Rejected("no question")
    if row.get("answerable") is False or (isinstance(metadata, Mapping) and metadata.get("answerable") is False):
        raise Rejected("unanswerable")
    name = next((row[key] for key in ("id", "_id") if row.get(key) not in (None, "")), fallback_id)
    others = {key: value for key, value in row.items() if key not in form.consumed | PASSAGES | {"id", "_id"}}
    if isinstance(metadata, Mapping):
        others["metadata"] = {key: value for key, value in metadata.items() if key not in PASSAGES}
    return others | {
        "id": str(name),
        "question": question.strip(),
        "golden_answers": _texts(form.answers(row)),
        "gold_titles": list(dict.fromkeys(form.titles(row))),
    }


def _texts(answers: list[Any]) -> list[str]:
    for answer in answers:
        if answer is not None and not isinstance(answer, str):
            raise ValueError(f"an answer is {answer!r} ({type(answer).__name__}), not a text; write it as a string.")
    texts = list(dict.fromkeys(answer.strip() for answer in answers if answer and answer.strip()))
    if not texts:
        raise Rejected("no answer")
    return texts


def _listed(row: Row, column: str) -> list[Any]:
    value = row.get(column)
    if value is not None and not isinstance(value, list):
        raise ValueError(f"'{column}' is a {type(value).__name__}, not a list of texts.")
    return value or []


def _one(row: Row, column: str = "answer") -> list[Any]:
    value = row.get(column)
    if isinstance(value, list):
        raise ValueError(f"'{column}' is a list, not a text; is this another layout? Set layout='nq' for such rows.")
    return [value]


def _records(value: Any) -> list[Any]:
    """A nested column as a list, whichever of its three dresses it wears."""
    if isinstance(value, str):
        value = json.loads(value)
    if isinstance(value, Mapping):
        return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
    return value or []


def _supporting_titles(row: Row) -> list[str]:
    facts = _records(row.get("supporting_facts"))
    return [str(fact["title"] if isinstance(fact, Mapping) else fact[0]) for fact in facts]


def _supporting_paragraphs(row: Row) -> list[str]:
    return [str(paragraph["title"]) for paragraph in _records(row.get("paragraphs")) if paragraph.get("is_supporting")]


def _metadata_titles(row: Row) -> list[str]:
    """FlashRAG keeps HotpotQA's and 2Wiki's facts, and MuSiQue's steps, in `metadata`."""
    metadata = row.get("metadata")
    if "gold_titles" in row or not isinstance(metadata, Mapping):
        return _listed(row, "gold_titles")
    steps = _records(metadata.get("question_decomposition"))
    passages = [step["support_paragraph"] for step in steps if step.get("support_paragraph")]
    return _supporting_titles(metadata) + [str(passage["title"]) for passage in passages]


def _answer_and_aliases(row: Row) -> list[Any]:
    return _one(row) + _listed(row, "answer_aliases")


def _text_or_list(row: Row) -> list[Any]:
    return _listed(row, "answer") if isinstance(row.get("answer"), list) else _one(row)


_PUBLISHED = frozenset({"answer", "answer_aliases", "answerable", "supporting_facts"})

LAYOUTS: dict[str, Layout] = {
    "flashrag": Layout(
        frozenset({"golden_answers"}),
        lambda row: _listed(row, "golden_answers"),
        _metadata_titles,
        frozenset({"golden_answers", "gold_titles"}),
    ),
    "musique": Layout(
        frozenset({"paragraphs", "answerable", "question_decomposition"}),
        _answer_and_aliases,
        _supporting_paragraphs,
        _PUBLISHED,
    ),
    "2wiki": Layout(frozenset({"evidences", "answer_id"}), _answer_and_aliases, _supporting_titles, _PUBLISHED),
    "hotpotqa": Layout(frozenset({"supporting_facts"}), _one, _supporting_titles, _PUBLISHED),
    "nq": Layout(frozenset({"answer"}), _text_or_list, _supporting_titles, _PUBLISHED),
}
"""By name, told apart from the top down."""
