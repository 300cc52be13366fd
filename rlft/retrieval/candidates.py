"""The candidates of a question: passages found once and kept in its row, from which a selector chooses."""

from collections.abc import Iterable, Mapping
from typing import Any

from rlft.retrieval.passage import RetrievalError, Retriever
from rlft.retrieval.rows import passage_of_row

Row = dict[str, Any]


def with_candidates(
    rows: Iterable[Mapping[str, Any]],
    retriever: Retriever | None,
    count: int,
    *,
    batch: int = 64,
) -> list[Row]:
    """Rows with the column `candidates`, passages `{id, title, text}` in retriever order.

    A row that has candidates keeps the first `count` of them, with whatever keys they have. For the others the
    retriever is asked for their question; it may find fewer than `count`, so see to the least that is needed with
    `refuse_candidates`.

    Args:
        rows: with `question`, and `candidates` where they are known (absent or None where they are not).
        retriever: finds the others'; None if no row needs it. `CachedRetriever` keeps what it finds for the next run.
        count: n, passages kept for each question.
        batch: questions in one call of the retriever.

    Returns:
        New rows, in order; those given are not changed.

    Raises:
        RetrievalError: from the retriever, or if it gave another number of results than it had questions.
        ValueError: if `count` or `batch` is below 1, or a row without candidates has no question or no retriever.
    """
    if count < 1 or batch < 1:
        raise ValueError(f"count={count} candidates, batch={batch} questions: both must be at least 1.")
    done = [dict(row) for row in rows]
    lacking = [row for row in done if row.get("candidates") is None]
    questions = [_question(row) for row in lacking]
    if retriever is None and lacking:
        raise ValueError(
            f"{_name(lacking[0])} and {len(lacking) - 1} more have no candidates and there is no retriever to find "
            "any; name one, or give rows with a column candidates."
        )
    for start in range(0, len(lacking), batch):
        assert retriever is not None
        asked = questions[start : start + batch]
        found = retriever.search(asked, count)
        if len(found) != len(asked):
            raise RetrievalError(
                f"retriever {retriever.name!r} gave {len(found)} result lists for {len(asked)} queries; it must give "
                "one for each, an empty one where nothing matches."
            )
        for row, passages in zip(lacking[start : start + batch], found, strict=True):
            row["candidates"] = [{"id": one.id, "title": one.title, "text": one.text} for one in passages]
    for row in done:
        if isinstance(row["candidates"], list):  # what is none is for refuse_candidates to say
            row["candidates"] = row["candidates"][:count]
    return done


def refuse_candidates(row: Mapping[str, Any], least: int) -> None:
    """Refuse a row from whose candidates no list can be chosen.

    Args:
        row: with `candidates`.
        least: candidates needed, at least K.

    Raises:
        ValueError: with the row's id, if its candidates are no list of passages with an id and a text, are fewer
            than `least`, or an id stands twice.
    """
    name, candidates = _name(row), row.get("candidates")
    if not isinstance(candidates, list):
        raise ValueError(f"{name}: candidates is a {type(candidates).__name__}, not a list of passages.")
    if len(candidates) < least:
        raise ValueError(
            f"{name} has {len(candidates)} candidates and {least} are needed, as many as are chosen; give it more, "
            "leave it out, or choose fewer."
        )
    seen: dict[str, int] = {}
    for place, candidate in enumerate(candidates, start=1):
        problem = _problem(candidate)
        if problem:
            raise ValueError(f"{name}, candidate {place}: {problem}; a candidate is {{id, title, text}}.")
        identity = str(candidate["id"])
        if identity in seen:
            raise ValueError(
                f"{name}: candidates {seen[identity]} and {place} have the same id {identity!r}; leave one of them out."
            )
        seen[identity] = place


def _problem(candidate: Any) -> str | None:
    if isinstance(candidate, Mapping) and not str(candidate.get("text") or "").strip():
        return f"its text is {candidate.get('text')!r}"
    try:
        passage_of_row(candidate)
    except ValueError as error:
        return str(error)
    return None


def _question(row: Row) -> str:
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"{_name(row)} has neither candidates nor a question to find some for: {question!r}.")
    return question


def _name(row: Mapping[str, Any]) -> str:
    return f"row {row.get('id', row.get('question'))!r}"
