"""What the rules of the health monitor judge: one number from the metrics so far, and words for a message.

A measure is None while it is unknown, or where it says nothing.
"""

import math
from statistics import median

from rlft.health.history import RECENT, History, Measure, Seen

FINITE = ("loss", "grad_norm", "reward", "reward_std", "kl", "entropy", "policy_loss")
TASK = "health/task_metric"
"""The held-out metric that chooses the best checkpoint, larger being better: `Watch` puts it here."""
LEVEL_LOGS = 5
"""Logs over which a level (a share, a mean) is averaged before it is judged."""
LEAST_KL = 0.05
"""Nats per token below which KL is no trouble, whatever it was before."""
LEAST_ENTROPY = 0.3
"""Nats per token: a policy that starts nearly deterministic may gain some."""


def not_finite(history: History) -> Seen | None:
    """Number of metrics of the last log without a finite value."""
    values = {name: history.last[name] for name in FINITE if name in history.last}
    bad = [name for name, value in values.items() if not (isinstance(value, int | float) and math.isfinite(value))]
    return Seen(len(bad), f"no finite value of {', '.join(bad)}" if bad else "all metrics are finite")


def entropy_share(history: History) -> Seen | None:
    """Entropy now, as a share of the start's; 1 where the reward has paid for its fall."""
    change = history.change("entropy")
    if change is None or not change[0] or not history.series("reward"):
        return None
    start, now = change
    value = 1.0 if history.earned() else now / start
    return Seen(value, f"entropy is {now:.3g} nats per token, was {start:.3g}")


def entropy_rise(history: History) -> Seen | None:
    """Entropy now over the start's."""
    change = history.change("entropy")
    if change is None or not history.series("reward"):
        return None
    start, now = change
    return Seen(now / max(start, LEAST_ENTROPY), f"entropy is {now:.3g} nats per token, was {start:.3g}")


def length_factor(history: History) -> Seen | None:
    """Mean length now over the start's, or the other way round; 1 where the reward has paid for it."""
    change = history.change("completions/mean_length")
    if change is None:
        return None
    start, now = (max(length, 1.0) for length in change)
    value = 1.0 if history.earned() else max(now / start, start / now)
    return Seen(value, f"completions have {now:.0f} tokens on average, had {start:.0f}, and earn no more")


def kl_jump(history: History) -> Seen | None:
    """The last KL over the median of those before."""
    values = [value for _, value in history.series("kl")]
    if not values:
        return None
    usual = median(values[:-1] or [0.0])
    return Seen(values[-1] / max(usual, LEAST_KL), f"KL from the reference is {values[-1]:.3g}, was {usual:.3g}")


def no_gradient(history: History) -> Seen | None:
    """Share of the last logs whose gradient is zero, unless dead groups explain it."""
    norms = [value for _, value in history.series("grad_norm")[-RECENT:]]
    if len(norms) < RECENT or (history.recent("frac_reward_zero_std") or 0.0) == 1:
        return None
    return Seen(sum(norm == 0 for norm in norms) / RECENT, f"grad_norm is 0 in {norms.count(0)} of the last logs")


def metric_fall(history: History) -> Seen | None:
    """Fall of the held-out metric from its best, as a share of it, that its last two values agree on.

    0 where the reward is lower too, and for a fall that may be chance: two standard errors of a mean over `eval_rows`
    values from 0 to 1 are 1 / sqrt(rows) at most.
    """
    metric = history.series(TASK)
    if len(metric) < 3:
        return None
    place, (best_step, best) = max(enumerate(metric[:-2]), key=lambda found: found[1][1])
    then = history.mean_between("reward", metric[place - 1][0] if place else 0, best_step)
    now = history.mean_between("reward", metric[-3][0], metric[-1][0])
    if then is None or now is None or not best:
        return None
    fall = best - max(value for _, value in metric[-2:])
    rows = history.series("eval_rows")
    real = now >= then and (not rows or fall > 1 / math.sqrt(rows[-1][1]))
    words = f"the held-out metric fell from {best:.3g} (step {best_step}) to {metric[-1][1]:.3g} while the reward went "
    return Seen(fall / abs(best) if real else 0.0, f"{words}from {then:.3g} to {now:.3g}")


def level(name: str, words: str, logs: int = LEVEL_LOGS) -> Measure:
    """Mean of a metric over the last logs; `words` hold a place for it."""

    def measure(history: History) -> Seen | None:
        now = history.recent(name, logs)
        return None if now is None else Seen(now, words.format(now))

    return measure
