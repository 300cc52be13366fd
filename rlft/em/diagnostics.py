"""What the weights of a round look like: collapsed on one trajectory, flat, or as they should be.

A ratio of effective sample size to K near 1/K means that one trajectory takes all; near 1, that the likelihood tells
nothing apart. EXSEARCH's specification, sections 10 and 11.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rlft.em.weighing import Dropped, Weighed

COLLAPSED = 0.95  # weight of one trajectory from which its group counts as collapsed
BINS = 10


def weight_metrics(questions: Sequence[Weighed]) -> dict[str, float]:
    """Averages over the questions of a round.

    Args:
        questions: one `Weighed` per question, dropped ones included.

    Returns:
        Over kept questions `ess_ratio` (effective sample size over scored trajectories) and `collapsed` (share with one
        trajectory's weight above .95); over scored ones `loglik_mean`, `loglik_best` and `loglik_spread` (means over
        questions of mean, best, and best less worst, finite scores only); counts `questions`, `kept`, `unscored`
        (trajectories) and `dropped/<reason>`. A mean over nothing is left out.
    """
    kept = [question for question in questions if question.weights_K is not None]
    finite = [values for question in questions if (values := [s for s in question.scored if s > -np.inf])]
    means = {
        "ess_ratio": [(question.ess or 0.0) / len(question.scored) for question in kept],
        "collapsed": [float((question.largest or 0.0) > COLLAPSED) for question in kept],
        "loglik_mean": [float(np.mean(values)) for values in finite],
        "loglik_best": [max(values) for values in finite],
        "loglik_spread": [max(values) - min(values) for values in finite],
    }
    dropped = Counter(question.dropped for question in questions if question.dropped)
    return {
        **{name: float(np.mean(values)) for name, values in means.items() if values},
        "questions": float(len(questions)),
        "kept": float(len(kept)),
        "unscored": float(sum(question.scores_K.count(None) for question in questions)),
        **{f"dropped/{reason}": float(dropped[reason]) for reason in Dropped},
    }


def ess_histogram(questions: Sequence[Weighed]) -> list[int]:
    """How many kept questions have a ratio of effective sample size to K in each of ten equal parts of (0, 1]."""
    ratios = [question.ess / len(question.scored) for question in questions if question.ess is not None]
    counts, _ = np.histogram(np.minimum(ratios, 1.0), bins=BINS, range=(0.0, 1.0))
    return [int(count) for count in counts]
