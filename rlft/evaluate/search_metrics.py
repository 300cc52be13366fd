"""What a batch of search trajectories is worth: answers, retrieval, and how the searches went.

Read from a trajectory's `fields`, as `rlft.rollouts.search` fills them: `answer`, `answer_cut`, `queries`, `facts`,
`passage_ids` and `passage_titles` (a list for each query). A metric that applies to no question is left out, never 0.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlft.evaluate.qa import cover, exact_match, f1, occurs
from rlft.rollouts.trajectory import FinishReason, Trajectory

Row = Mapping[str, Any]

FORCED = (FinishReason.HOPS, FinishReason.REPEAT, FinishReason.MALFORMED)
"""Ends that the model did not choose; the answer was asked for all the same."""


def search_metrics(
    rows: Sequence[Row], trajectories: Sequence[Trajectory], decode: Callable[[list[int]], str] | None = None
) -> dict[str, float]:
    """Means over questions of all metrics that apply.

    Args:
        rows: N questions with `golden_answers`; with `hops` (`[{"passage_id", ...}]`) or `gold_titles` for recall.
        trajectories: one for each row, in order.
        decode: gives the text of token ids, such as `tokenizer.decode`; without it no passage can be read.

    Returns:
        `em`, `f1`, `cover`: of the answers. A trajectory that was cut before its answer has not answered its question
            and counts 0; `length_rate` says how many there are. Left out where no answers were sampled.
        `answer_cut_rate`: share of the answers that their own token cap cut.
        `retrieval_recall`: share of the gold passages (by id, else by title) that some search of the trajectory found.
        `answer_recall`: whether a gold answer stands in what was shown (FlashRAG's retrieval recall); needs `decode`.
        `hops`: searches.
        `forced_stop_rate`, `length_rate`, `finish/<reason>`: shares of the trajectories by how they ended.
        `empty_fact_rate`: share of a trajectory's facts that are blank.
        `unsupported_fact_rate`: whether some fact holds a gold answer though nothing shown does, so that it comes from
            the model's memory; needs `decode`.
        `tokens_trained`, `tokens_fed`: after the prompt, branches included.

    Raises:
        ValueError: if there are no rows, or another number of trajectories.
    """
    if not rows or len(rows) != len(trajectories):
        raise ValueError(
            f"{len(rows)} rows and {len(trajectories)} trajectories: one trajectory is needed for each row."
        )
    metrics = _METRICS | ({} if decode is None else _shown_metrics(decode))
    values = {
        name: [metric(*pair) for pair in zip(rows, trajectories, strict=True)] for name, metric in metrics.items()
    }
    known = {name: [value for value in column if value is not None] for name, column in values.items()}
    return {name: sum(column) / len(column) for name, column in known.items() if column}


Metric = Callable[[Row, Trajectory], float | None]
"""A value for one question; None where it does not apply."""


def _of_answer(metric: Callable[[str, Sequence[str]], float]) -> Metric:
    def score(row: Row, trajectory: Trajectory) -> float | None:
        fields = trajectory.fields
        return metric(fields["answer"] or "", row["golden_answers"]) if "answer" in fields else None

    return score


def _answer_cut(row: Row, trajectory: Trajectory) -> float | None:
    cut = trajectory.fields.get("answer_cut")
    return None if cut is None else float(cut)


def _ended(*reasons: FinishReason) -> Metric:
    return lambda row, trajectory: float(trajectory.finish in reasons)


def _retrieval_recall(row: Row, trajectory: Trajectory) -> float | None:
    ids, titles = trajectory.fields.get("passage_ids"), trajectory.fields.get("passage_titles")
    if isinstance(row.get("hops"), list) and row["hops"] and ids is not None:  # 2Wiki and others count hops so
        return _share({hop["passage_id"] for hop in row["hops"]}, {name for names in ids for name in names})
    if row.get("gold_titles") and titles is not None:
        return _share(set(map(_title, row["gold_titles"])), {_title(name) for names in titles for name in names})
    return None


def _share(wanted: set[str], found: set[str]) -> float:
    return len(wanted & found) / len(wanted)


def _title(text: str) -> str:
    """A title without regard to case, blanks and underscores (`New_York`, as in URLs)."""
    return " ".join(text.replace("_", " ").casefold().split())


def _empty_facts(row: Row, trajectory: Trajectory) -> float | None:
    facts = trajectory.fields.get("facts")
    return sum(not fact.strip() for fact in facts) / len(facts) if facts else None


def _shown_metrics(decode: Callable[[list[int]], str]) -> dict[str, Metric]:
    """Metrics that read what the model was shown: the environment's segments that answer a search."""

    def recall(row: Row, trajectory: Trajectory) -> float | None:
        if "queries" not in trajectory.fields:
            return None
        shown = (decode(segment.ids) for segment in trajectory.segments if segment.label == "search")
        return float(any(occurs(text, row["golden_answers"]) for text in shown))

    def unsupported(row: Row, trajectory: Trajectory) -> float | None:
        found, facts = recall(row, trajectory), trajectory.fields.get("facts")
        if found is None or not facts:
            return None
        return float(not found and any(occurs(fact, row["golden_answers"]) for fact in facts))

    return {"answer_recall": recall, "unsupported_fact_rate": unsupported}


def _hops(row: Row, trajectory: Trajectory) -> float | None:
    queries = trajectory.fields.get("queries")
    return None if queries is None else float(len(queries))


def _tokens(trained: bool) -> Metric:
    def count(row: Row, trajectory: Trajectory) -> float:
        segments = [segment for one in (trajectory, *trajectory.branches) for segment in one.segments]
        return float(sum(len(segment.ids) for segment in segments if segment.trainable is trained))

    return count


_METRICS: dict[str, Metric] = {
    "em": _of_answer(exact_match),
    "f1": _of_answer(f1),
    "cover": _of_answer(cover),
    "answer_cut_rate": _answer_cut,
    "retrieval_recall": _retrieval_recall,
    "hops": _hops,
    "forced_stop_rate": _ended(*FORCED),
    "length_rate": _ended(FinishReason.LENGTH),
    "empty_fact_rate": _empty_facts,
    "tokens_trained": _tokens(True),
    "tokens_fed": _tokens(False),
    **{f"finish/{reason}": _ended(reason) for reason in FinishReason},
}
