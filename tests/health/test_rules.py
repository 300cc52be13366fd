"""Every rule fires on its trouble, is silent on a healthy run, and is silent where its condition does not hold."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from rlft.health import RULES, Alarm, Watch
from rlft.health.watch import CALM

Row = dict[str, Any]
LOGS = 60
DOCS = Path(__file__).parents[2] / "docs/health.md"


def healthy(step: int) -> Row:
    """A GRPO run that learns: the reward rises, entropy falls to a fifth, nothing else happens."""
    done, wave = step / LOGS, math.sin(step)
    return {
        "loss": 0.01 * wave,
        "grad_norm": 0.3 + 0.1 * wave,
        "reward": 0.3 + 0.5 * done + 0.05 * wave,
        "reward_std": 0.48,
        "entropy": 0.5 * (1 - 0.8 * done),
        "frac_reward_zero_std": 0.2 + 0.6 * done,
        "completions/clipped_ratio": 0.05 + 0.05 * wave,
        "completions/mean_length": 100 + 20 * wave,
        "health/repetition": 0.1,
        "health/unreadable": 0.001,
        "kl": 0.02 + 0.015 * wave,
        "clip_ratio/region_mean": 0.02,
        "sampling/sampling_logp_difference/mean": 0.01,
        "learning_rate": 1e-6,
        "rewards/optional/mean": None,
    }


def after(step: int, **values: Any) -> Callable[[int], Row]:
    """Healthy up to `step`; from then on, these values (names with `__` for `/`)."""
    changes = {name.replace("__", "/"): value for name, value in values.items()}
    return lambda now: healthy(now) | (changes if now > step else {})


def alarms(curve: Callable[[int], Row], evaluations: Iterable[tuple[int, float]] = ()) -> list[Alarm]:
    """All alarms of a run of LOGS logs whose held-out metric is known at some steps."""
    watch, metric, found = Watch(metric="eval_task"), dict(evaluations), list[Alarm]()
    for step in range(1, LOGS + 1):
        found += watch.see(step, curve(step))
        if step in metric:
            found += watch.see(step, {"eval_task": metric[step], "eval_runtime": 1.0})
    return found


RISING = [(10, 0.4), (20, 0.5), (30, 0.6), (40, 0.58), (50, 0.62), (60, 0.6)]
FALLING = [(10, 0.4), (20, 0.6), (30, 0.6), (40, 0.5), (50, 0.5), (60, 0.4)]
POOR = {"reward": 0.3}

SICK: dict[str, tuple[str, Callable[[int], Row], list[tuple[int, float]]]] = {
    "a gradient that is NaN": ("non_finite", after(20, grad_norm=math.nan), []),
    "no completion scored": ("non_finite", after(20, reward=None), []),
    "entropy gone, nothing earned": ("entropy_collapse", after(20, entropy=0.01, **POOR), []),
    "entropy of random text": ("entropy_blow_up", after(20, entropy=3.0), []),
    "loops": ("repetition", after(20, health__repetition=0.9), []),
    "cut completions": ("truncation", after(20, completions__clipped_ratio=0.9), []),
    "equal rewards": ("dead_groups", after(20, frac_reward_zero_std=1.0, grad_norm=0.0), []),
    "nothing trainable left": ("zero_gradient", after(20, grad_norm=0.0), []),
    "a jump of KL": ("kl_spike", after(40, kl=7.0), []),
    "a stale batch": ("clipping", after(20, clip_ratio__region_mean=0.5), []),
    "another engine": ("engine_mismatch", after(20, **{"sampling/sampling_logp_difference/mean": 0.4}), []),
    "a reward that is hacked": ("metric_divergence", healthy, FALLING),
    "bytes that are no text": ("unreadable_text", after(20, health__unreadable=0.4), []),
    "endless text for nothing": ("length_drift", after(20, completions__mean_length=900, **POOR), []),
    "answers that shrink for nothing": ("length_drift", after(20, completions__mean_length=9, **POOR), []),
}
FINE: dict[str, tuple[Callable[[int], Row], list[tuple[int, float]]]] = {
    "a run that learns": (healthy, RISING),
    "entropy that the reward has paid for": (after(20, entropy=0.01), []),
    "longer answers that earn more": (after(40, completions__mean_length=900), []),
    "a metric that falls with the reward": (after(20, reward=0.1), FALLING),
    "one bad evaluation": (healthy, [(10, 0.4), (20, 0.6), (30, 0.3), (40, 0.6), (50, 0.6), (60, 0.3)]),
    "one log of cut completions": (lambda step: healthy(step) | {"completions/clipped_ratio": float(step == 30)}, []),
    "most groups solved": (after(20, frac_reward_zero_std=0.9), []),
    "KL that grows slowly": (lambda step: healthy(step) | {"kl": 0.01 * step}, []),
    "a smoke": (lambda step: healthy(1) if step < 6 else {}, []),
}


@pytest.mark.parametrize("case", SICK)
def test_trouble_is_named_once(case: str) -> None:
    rule, curve, evaluations = SICK[case]
    (alarm,) = alarms(curve, evaluations)
    assert (alarm.rule, alarm.over) == (rule, False)
    assert alarm.step > 20
    assert "Likely:" in alarm.message
    assert "Try:" in alarm.message


def test_every_rule_has_its_trouble() -> None:
    assert {rule for rule, _, _ in SICK.values()} == {rule.name for rule in RULES}


@pytest.mark.parametrize("case", FINE)
def test_health_is_silent(case: str) -> None:
    assert alarms(*FINE[case]) == []


def test_the_end_of_trouble_is_said_and_its_return_too() -> None:
    sick = range(20, 30), range(45, 50)
    curve = lambda step: healthy(step) | {"kl": math.inf if any(step in when for when in sick) else 0.02}  # noqa: E731
    assert [(alarm.step, alarm.over) for alarm in alarms(curve)] == [
        (20, False),
        (29 + CALM, True),
        (45, False),
        (49 + CALM, True),
    ]


def test_a_loss_as_the_metric_is_better_when_it_is_smaller() -> None:
    watch = Watch(metric="eval_loss", greater_is_better=False)
    found = [
        alarm
        for step in range(1, LOGS + 1)
        for row in ([healthy(step), {"eval_loss": 1 + 0.02 * step}] if step % 10 == 0 else [healthy(step)])
        for alarm in watch.see(step, row)
    ]
    assert [alarm.rule for alarm in found] == ["metric_divergence"]


@pytest.mark.parametrize(("rows", "said"), [(16, 0), (256, 1)])
def test_a_fall_that_may_be_chance_is_no_alarm(rows: int, said: int) -> None:
    """From 12 right of 16 to 10, twice; the same shares of 256."""
    watch = Watch(metric="eval_task")
    found = [
        alarm
        for step, value in enumerate([0.5, 0.75, 0.625, 0.625, 0.5625], start=1)
        for row in ({"loss": 0.0, "reward": step}, {"eval_task": value, "eval_rows": rows})
        for alarm in watch.see(step, row)
    ]
    assert [alarm.rule for alarm in found] == ["metric_divergence"] * said


def test_the_log_of_supervised_training_has_no_rules_of_rewards() -> None:
    """Entropy may vanish: that is what such training is for."""
    row = lambda step: {"loss": 0.1, "grad_norm": 0.2, "entropy": 1e-5 if step > 20 else 1.0}  # noqa: E731
    assert alarms(row) == []
    (alarm,) = alarms(lambda step: row(step) | {"grad_norm": 0.0 if step > 20 else 0.2})
    assert (alarm.rule, alarm.step) == ("zero_gradient", 30)


def test_the_documented_table_is_that_of_the_rules() -> None:
    text = DOCS.read_text()
    for rule in RULES:
        assert f"| `{rule.name}` | {rule.threshold} | {rule.cause} | {rule.knob} |" in text
