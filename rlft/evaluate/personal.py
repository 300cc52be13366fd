"""LaMP's own metrics, the share of parseable answers, the length of the thinking, and bootstrap intervals.

Metrics as LaMP's evaluation script computes them (Salemi et al. 2024, arXiv 2304.11406): accuracy and
macro-F1 over the closed set of labels; mean absolute and root mean squared error of ratings; ROUGE-1 and ROUGE-L F1 of
`rouge_score` without stemming. The script reports the median of a bootstrap for ROUGE, here it is the mean itself.
Shapes: N rows, R resamples.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlft.data.lamp_tasks import LampTask
from rlft.rewards.boundary import is_finite_number
from rlft.rewards.personal import THINK_END, extract_answer
from rlft.rewards.rouge_scores import Rouge, rouge_scorer
from rlft.rewards.text import last_text


class Measured(NamedTuple):
    """A metric over rows: what each row contributes, and how these make one figure."""

    rows: np.ndarray
    """(N,) values, or (N, 2) places of the predicted and the gold label among the labels, -1 for no label."""
    figure: Callable[[np.ndarray], float]
    """Of any selection of rows, with repetition."""

    @property
    def value(self) -> float:
        """The metric over all rows."""
        return self.figure(self.rows)


class Interval(NamedTuple):
    """A figure and its bootstrap interval."""

    value: float
    low: float
    high: float


def personal_metrics(
    task: LampTask,
    completions: Sequence[Any],
    golds: Sequence[str | None],
    *,
    think_end: str | None = THINK_END,
) -> dict[str, Measured]:
    """Metrics of one completion for each row.

    Args:
        task: says which metrics, which labels, and the key of the answer.
        completions: N texts or message lists.
        golds: N gold answers.
        think_end: as for `rlft.rewards.personal.extract_answer`.

    Returns:
        The task's metrics by their names (`accuracy`, `macro_f1`; `mae`, `rmse`; `rouge1`, `rougeL`). A completion
        without an answer is wrong, scores ROUGE 0, or, of a rating, counts as the end of the scale that is farther
        from the gold rating, which is what LaMP does with text that is no number.
        `parseable`: share of the completions with an answer; of ratings, one that is a number.
        `thinking_words`: words before the last closing tag, all of them where there is none; left out if the policy
        does not think.

    Raises:
        ValueError: if there are no rows, another number of golds, or a gold answer is missing, blank or no label.
        ImportError: if ROUGE is asked for and its package is not installed.
    """
    if not completions or len(completions) != len(golds):
        raise ValueError(f"{len(completions)} completions, {len(golds)} golds: there must be rows, and one gold each.")
    answers = [extract_answer(completion, task.answer_key, think_end) for completion in completions]
    known = [_gold(gold, number, task) for number, gold in enumerate(golds)]
    if task.labels is None:
        measured = _written(answers, known)
    elif "mae" in task.metrics:
        answers = [answer if _number(answer) is not None else None for answer in answers]
        measured = _rated(answers, known, task.labels)
    else:
        measured = _labelled(answers, known, task.labels)
    measured["parseable"] = _mean([float(answer is not None) for answer in answers])
    if think_end is not None:
        measured["thinking_words"] = _mean([float(thinking_words(last_text(one), think_end)) for one in completions])
    return measured


def bootstrap(
    measured: Measured,
    *,
    users: Sequence[str] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a figure over resampled rows (Efron and Tibshirani 1993, chapter 13).

    Args:
        measured: N rows.
        users: of the N rows; a user is then drawn with all its rows, as rows of one user are not independent. None
            draws single rows.
        resamples: R.
        level: share of the resampled figures inside the interval.
        seed: of the draws.

    Raises:
        ValueError: if `resamples` is below 1, `level` not between 0 and 1, or `users` of another length.
    """
    draws = _draws(len(measured.rows), users, resamples, seed)
    drawn = [measured.figure(measured.rows[places_N]) for places_N in draws]
    return _interval(measured.value, drawn, level)


def paired_bootstrap(
    first: Measured,
    second: Measured,
    *,
    users: Sequence[str] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of `first` less `second`, two systems on the same rows, resampled together (Koehn 2004).

    Args:
        first: N rows.
        second: the same metric over the same rows in the same order.
        users: as for `bootstrap`.
        resamples: R.
        level: share of the resampled differences inside the interval.
        seed: of the draws.

    Raises:
        ValueError: if the two have another number of rows, or as for `bootstrap`.
    """
    if first.rows.shape != second.rows.shape:
        raise ValueError(
            f"{len(first.rows)} rows against {len(second.rows)}: a paired bootstrap needs one metric on the same rows."
        )
    draws = _draws(len(first.rows), users, resamples, seed)
    drawn = [first.figure(first.rows[places_N]) - second.figure(second.rows[places_N]) for places_N in draws]
    return _interval(first.value - second.value, drawn, level)


def thinking_words(text: str, think_end: str) -> int:
    """Words before the last tag that closes the thinking, all of them where there is none."""
    thinking, closed, rest = text.rpartition(think_end)
    return len((thinking if closed else rest).split())


def _gold(gold: str | None, number: int, task: LampTask) -> str:
    text = "" if gold is None else str(gold).strip()
    if not text or (task.labels is not None and text not in task.labels):
        allowed = "a text" if task.labels is None else f"one of {', '.join(task.labels)}"
        raise ValueError(f"row {number}: gold answer {gold!r} is not {allowed}; the golds of LaMP's test are hidden.")
    return text


def _written(answers: Sequence[str | None], golds: Sequence[str]) -> dict[str, Measured]:
    score, nothing = rouge_scorer(), Rouge(0.0, 0.0, 0.0)  # LaMP counts a gold text without words as 0 too
    found = [score(answer or "", gold) or nothing for answer, gold in zip(answers, golds, strict=True)]
    return {"rouge1": _mean([one.rouge1 for one in found]), "rougeL": _mean([one.rougeL for one in found])}


def _rated(answers: Sequence[str | None], golds: Sequence[str], labels: Sequence[str]) -> dict[str, Measured]:
    scale = [float(label) for label in labels]
    errors = []
    for answer, text in zip(answers, golds, strict=True):
        said, gold = _number(answer), float(text)
        errors.append(max(gold - min(scale), max(scale) - gold) if said is None else abs(said - gold))
    errors_N = np.array(errors)
    return {"mae": _mean(errors), "rmse": Measured(errors_N**2, lambda squares_N: float(np.sqrt(squares_N.mean())))}


def _labelled(answers: Sequence[str | None], golds: Sequence[str], labels: Sequence[str]) -> dict[str, Measured]:
    places = {label: place for place, label in enumerate(labels)}
    pairs_N2 = np.array([[places.get(a or "", -1), places[g]] for a, g in zip(answers, golds, strict=True)])
    right = [float(said == gold) for said, gold in pairs_N2]
    return {"accuracy": _mean(right), "macro_f1": Measured(pairs_N2, lambda pairs: _macro_f1(pairs, len(labels)))}


def _macro_f1(pairs_N2: np.ndarray, labels: int) -> float:
    """Mean over all labels; one that is neither predicted nor gold counts 0, as in LaMP's script."""
    said_N, gold_N = pairs_N2.T
    right_L = np.bincount(gold_N[said_N == gold_N], minlength=labels)
    either_L = np.bincount(said_N[said_N >= 0], minlength=labels) + np.bincount(gold_N, minlength=labels)
    return float(np.mean(2 * right_L / np.maximum(either_L, 1)))


def _number(answer: str | None) -> float | None:
    try:
        number = float(answer or "")
    except ValueError:
        return None
    return number if is_finite_number(number) else None


def _mean(values: Sequence[float]) -> Measured:
    return Measured(np.array(values), lambda values_N: float(values_N.mean()))


def _draws(rows: int, users: Sequence[str] | None, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Places of the rows of each resample."""
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: at least 1 is needed.")
    rng = np.random.default_rng(seed)
    if users is None:
        return (rng.integers(rows, size=rows) for _ in range(resamples))
    if len(users) != rows:
        raise ValueError(f"{len(users)} users for {rows} rows: each row needs its own.")
    places: dict[str, list[int]] = {}
    for place, user in enumerate(users):
        places.setdefault(user, []).append(place)
    of_user = [np.array(found) for found in places.values()]
    return (
        np.concatenate([of_user[drawn] for drawn in rng.integers(len(of_user), size=len(of_user))])
        for _ in range(resamples)
    )


def _interval(value: float, drawn: Sequence[float], level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level={level}: it must lie between 0 and 1.")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
