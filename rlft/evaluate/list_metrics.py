"""What a batch of passage lists is worth: the answers read from them, what they found, and how they were chosen.

A list is K places (from 0) among a question's candidates, best first; one that is missing or could not be read is None
or empty. A passage is found to answer by containment, as DRO counts it (arXiv 2505.03075, section 5): a gold answer
stands in its title or its text. Answers such as "no" or "4" stand in many passages that say nothing of the question.
A metric that applies to no question is left out, never 0.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from rlft.evaluate.qa import cover, exact_match, f1, occurs

Row = Mapping[str, Any]
Places = Sequence[int] | None
"""A list; None, or empty, where there is none."""

CUTS = (1, 3, 5)
"""Recall is read after so many passages, and after all K."""


def list_metrics(
    rows: Sequence[Row], lists: Sequence[Places], answers: Sequence[str | None] | None = None, *, size: int
) -> dict[str, float]:
    """Means over questions of all metrics that apply.

    Args:
        rows: N questions with `golden_answers` and `candidates` (`[{"title", "text"}, ...]`, in retriever order); with
            `gold`, the places among the candidates that it takes, for `gold_recall@k`.
        lists: one for each row.
        answers: one for each row, None where there is none; or None if nothing was answered.
        size: K, passages in a list.

    Returns:
        `em`, `f1`, `cover`: of the answers. A question without a list or an answer counts 0.
        `recall@k`: whether one of the first k chosen passages holds a gold answer; k is 1, 3, 5 and K, up to K. A
            question without a list counts 0, here and in the next.
        `gold_recall@k`: share of the gold places among the first k chosen; over rows that have any.
        `retriever_recall@k`: as `recall@k`, of the first k candidates in retriever order.
        `candidate_recall`: whether any candidate holds a gold answer: what no list can exceed.
        `invalid_rate`: share of the questions without a list.
        `kendall_tau`: agreement of the chosen order with retriever order over the K passages chosen, 1 if the same, -1
            if reversed; over lists of two passages or more.

    Raises:
        ValueError: if there are no rows, another number of lists or answers, or a list is not K different places among
            its row's candidates.
    """
    if not rows or len(rows) != len(lists) or (answers is not None and len(answers) != len(rows)):
        answered = "" if answers is None else f" and {len(answers)} answers"
        raise ValueError(
            f"{len(rows)} rows, {len(lists)} lists{answered}: there must be rows, and one of each for every row."
        )
    columns: dict[str, list[float]] = {}
    for number, (row, places) in enumerate(zip(rows, lists, strict=True)):
        _refuse_list(row, places, size)
        values = _of_list(row, places or [], size)
        if answers is not None:
            values |= _of_answer(row, answers[number] if places else None)
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return {name: sum(column) / len(column) for name, column in columns.items()}


def sampled_list_metrics(samples: Sequence[Sequence[Places]]) -> dict[str, float]:
    """How much the lists sampled for one question differ: 0 and 1/m when the selector always says the same.

    Args:
        samples: for each question its m lists. Those that are missing do not count.

    Returns:
        `permutation_entropy`: of the distribution of a question's lists, in nats: -sum p log p with p the share of the
            samples that are this list, which is below the entropy of the selector itself (at most log m).
        `distinct_lists`: share of a question's lists that are different from each other.
        Both are means over the questions that have a list; left out if none has.
    """
    counts = [Counter(tuple(places) for places in lists if places) for lists in samples]
    shares = [np.array([*count.values()]) / count.total() for count in counts if count]
    if not shares:
        return {}
    return {
        "permutation_entropy": float(np.mean([abs((p * np.log(p)).sum()) for p in shares])),
        "distinct_lists": float(np.mean([len(count) / count.total() for count in counts if count])),
    }


def cuts_of(size: int) -> list[int]:
    """Numbers of passages after which recall is read: 1, 3, 5 and K, up to K."""
    return sorted({cut for cut in (*CUTS, size) if cut <= size})


def _refuse_list(row: Row, places: Places, size: int) -> None:
    among = range(len(row["candidates"]))
    if places and not (len(places) == len(set(places)) == size and all(place in among for place in places)):
        raise ValueError(
            f"row {row.get('id', row['golden_answers'])!r}: the list {list(places)} is not {size} different places "
            f"among {len(among)} candidates, counted from 0; give None for a list that could not be read."
        )


def _of_list(row: Row, places: Sequence[int], size: int) -> dict[str, float]:
    holds = [holds_answer(candidate, row["golden_answers"]) for candidate in row["candidates"]]
    values = {"candidate_recall": float(any(holds)), "invalid_rate": float(not places)}
    for cut in cuts_of(size):
        values[f"recall@{cut}"] = float(any(holds[place] for place in places[:cut]))
        values[f"retriever_recall@{cut}"] = float(any(holds[:cut]))
        if row.get("gold"):
            values[f"gold_recall@{cut}"] = len({*places[:cut]} & {*row["gold"]}) / len({*row["gold"]})
    if len(places) > 1:
        values["kendall_tau"] = float(kendalltau(range(len(places)), places).statistic)
    return values


def holds_answer(passage: Row, golds: Sequence[str]) -> bool:
    """Whether a gold answer stands in a passage `{title, text}`."""
    return any(occurs(passage.get(part) or "", golds) for part in ("title", "text"))


_ANSWERED: dict[str, Callable[[str, Sequence[str]], float]] = {"em": exact_match, "f1": f1, "cover": cover}


def _of_answer(row: Row, answer: str | None) -> dict[str, float]:
    return {
        name: 0.0 if answer is None else metric(answer, row["golden_answers"]) for name, metric in _ANSWERED.items()
    }
