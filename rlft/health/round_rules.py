"""The rules of rounds of EM: what the weights of the E-step and the held-out questions say after each round.

A row of figures is judged once a round: those of the round's `weights.json` as `em/<name>`, with `em/weighting` and
`em/rollouts` (sampled for a question), the metric that chooses the round, and `eval_rows`, the questions behind it.
"""

import math

from rlft.health.history import History, Seen
from rlft.health.measures import TASK
from rlft.health.rules import Rule

LEAST_QUESTIONS = 32
"""Of a round that is judged: the standard error of a share of fewer is above 0.09."""
LIKELY = math.log(0.2)
"""Log-likelihood of the gold answer from which on a rollout may be said to lead to it."""
SINGLE = 0.8
"""Effective sample size over samples from which on weight of one is for want of others, not for being better."""


def weight_of_one(history: History) -> Seen | None:
    """Share of questions whose weight is nearly all with one rollout, where others were there to share it."""
    figures = _of_round(history, "collapsed", "ess_ratio", "rollouts")
    if figures is None:
        return None
    _, collapsed, ess, rollouts = figures
    words = f"one of {rollouts:g} rollouts has nearly all weight in {collapsed:.2f} of the questions"
    return Seen(collapsed if ess < SINGLE else 0.0, f"{words} (effective sample size {ess * rollouts:.2g})")


def flatness(history: History) -> Seen | None:
    """Effective sample size over samples; 0 where rollouts are alike for being good, or are weighed otherwise."""
    figures = _of_round(history, "ess_ratio", "loglik_best", "rollouts")
    if figures is None:
        return None
    _, ess, best, rollouts = figures
    hopeless = best < LIKELY and history.last.get("em/weighting") == "likelihood"
    words = f"the weights are those of {ess * rollouts:.2g} equal rollouts of {rollouts:g}"
    return Seen(ess if hopeless else 0.0, f"{words}, and the gold answer has likelihood {math.exp(best):.2g} at best")


def share_dropped(history: History) -> Seen | None:
    """Share of questions that taught nothing."""
    figures = _of_round(history, "kept")
    if figures is None:
        return None
    questions, kept = figures
    reasons = {
        name.removeprefix("em/dropped/"): value
        for name, value in history.last.items()
        if name.startswith("em/dropped/") and isinstance(value, int | float) and value
    }
    most = max(reasons, key=lambda name: reasons[name], default="")
    told = f", most of them as {most}" if most else ""
    return Seen(1 - kept / questions, f"{questions - kept:.0f} of {questions:.0f} questions were dropped{told}")


def share_unusable(history: History) -> Seen | None:
    """Share of rollouts that no weight could be computed for."""
    figures = _of_round(history, "unscored", "rollouts")
    if figures is None:
        return None
    questions, unscored, rollouts = figures
    words = f"{unscored:.0f} of {questions * rollouts:.0f} rollouts cannot be used"
    return Seen(unscored / (questions * rollouts), words)


def closed_book(history: History) -> Seen | None:
    """Share of questions whose answer no list of passages makes likelier than none at all."""
    figures = _of_round(history, "closed_book_ahead")
    if figures is None:
        return None
    return Seen(figures[1], f"in {figures[1]:.2f} of the questions no list makes the gold answer likelier than none")


def round_fall(history: History) -> Seen | None:
    """Fall of the held-out metric from the best round before, as a share of it; 0 for one that may be chance.

    Two standard errors of a mean over `eval_rows` values from 0 to 1 are 1 / sqrt(rows) at most.
    """
    metric, rows = history.series(TASK), history.last.get("eval_rows")
    if len(metric) < 2 or not isinstance(rows, int) or rows < 1:
        return None
    number, best = max(metric[:-1], key=lambda found: found[1])
    now = metric[-1][1]
    real = best != 0 and best - now > 1 / math.sqrt(rows)
    words = f"the held-out metric is {now:.3g} of {rows} questions, was {best:.3g} after round {number}"
    return Seen((best - now) / abs(best) if real else 0.0, words)


def _of_round(history: History, *names: str) -> tuple[float, ...] | None:
    """The number of questions and these figures of the last round; None if one is missing or questions are too few."""
    found = [history.last.get(f"em/{name}") for name in ("questions", *names)]
    values = tuple(float(value) for value in found if isinstance(value, int | float))
    return None if len(values) < len(found) or values[0] < LEAST_QUESTIONS else values


ROUND_RULES = (
    Rule(
        "weight_collapse",
        ("em/collapsed",),
        weight_of_one,
        limit=0.5,
        when="one rollout has over 0.95 of the weight in a share of the questions above {:g}, and others were scored",
        cause="one rollout is far likelier than the others, so that the M-step imitates a few samples",
        knob="raise --ess_floor, --weight_temperature or --num_generations, set --uniform_mix or --max_weight",
    ),
    Rule(
        "flat_weights",
        ("em/ess_ratio",),
        flatness,
        limit=0.9,
        when="`ess_ratio` is above {:g}, and the best rollout gives the gold answer a likelihood below 0.2",
        cause="no rollout leads to the answer, so that the M-step trains on wrong ones as if they were good",
        knob="warm up longer or with better demonstrations, set --min_best_loglik, check retriever and gold answers",
    ),
    Rule(
        "dropped_questions",
        ("em/kept",),
        share_dropped,
        limit=0.5,
        when="a share of the questions above {:g} is dropped",
        cause="the model finds no answer to most questions, or a floor is too strict: little is left to learn from",
        knob="see dropped/* in weights.json; lower --min_best_loglik or --min_spread, warm up longer, raise "
        "--num_generations",
    ),
    Rule(
        "unusable_rollouts",
        ("em/unscored",),
        share_unusable,
        limit=0.3,
        when="a share of the rollouts above {:g} cannot be used: cut, malformed, or no list",
        cause="the model does not keep the format, or has no room for it",
        knob="see refused/* or fault/* in weights.json; EXSEARCH: raise --max_tokens; DRO: raise --max_list_tokens or "
        "set --constrained true; both: warm up longer",
    ),
    Rule(
        "unread_passages",
        ("em/closed_book_ahead",),
        closed_book,
        limit=0.5,
        when="`closed_book_ahead` is above {:g}",
        cause="the candidates do not hold the answers, or the generator does not read what it is given",
        knob="check the retriever, raise --candidates or --list_size, and warm up the generator",
    ),
    Rule(
        "worse_round",
        (TASK,),
        round_fall,
        limit=0.1,
        when="the metric that chooses the round is {:g} of the best below it, more than chance",
        cause="the M-step unlearns: its steps are too many or too large, or its rows teach mistakes",
        knob="take the best round (it is what is saved), lower --learning_rate or --num_train_epochs, raise "
        "--questions_per_round, set --restart_from_warm_up true or --min_best_loglik",
    ),
)
