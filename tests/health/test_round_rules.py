"""Rules of rounds of EM and of replay: silent on the figures of runs that learn, and each fires on its trouble.

Figures without a comment are logged ones: of the tiny settings (benchmarks/search_learning.py, recipes/dro.py,
benchmarks/replay_learning.py) and of `--smoke`.
"""

from collections.abc import Sequence
from typing import Any

import pytest

from rlft.health import REPLAY_RULES, ROUND_RULES, Watch
from tests.health.test_rules import DOCS, healthy

Row = dict[str, Any]
NAMES = ("questions", "kept", "collapsed", "ess_ratio", "loglik_best", "unscored", "closed_book_ahead")
EXSEARCH = [
    (128, 114, 0.149, 0.361, -0.608, 0, None),
    (128, 125, 0.016, 0.891, -0.248, 0, None),
    (128, 128, 0.0, 0.968, -0.016, 0, None),
    (128, 128, 0.0, 0.975, -0.014, 0, None),
]
DRO = [
    (128, 125, 0.056, 0.435, -0.293, 6, 0.008),
    (128, 125, 0.032, 0.602, -0.14, 10, 0.008),
    (128, 128, 0.016, 0.702, -0.027, 7, 0.0),
    (128, 128, 0.008, 0.768, -0.019, 5, 0.0),
]
SMOKE = (16, 16, 0.0, 0.965, -4.045, 18, 0.0)
UNIFORM = [(128, 128, 0.0, 1.0, best, 0, None) for best in (-0.608, -1.518, -1.906, -2.56)]
UNTRAINED = (9, 9, 0.0, 0.985, -10.66, 0, 0.333)


def rounds(figures: Sequence[Sequence[float | None]], dev: Sequence[float], weighting: str = "likelihood") -> list[Row]:
    """Rows of figures of round 0 and of the rounds after it, K = 8, judged on 128 questions."""
    found: list[Row] = [{"greedy_em": value, "eval_rows": 128} for value in dev]
    for row, of_round in zip(found[1:], figures, strict=True):
        named = {f"em/{name}": value for name, value in zip(NAMES, of_round, strict=True) if value is not None}
        row |= {**named, "em/rollouts": 8, "em/weighting": weighting}
    return found


def alarms(rows: Sequence[Row]) -> list[tuple[int, str, str]]:
    watch = Watch(ROUND_RULES, "greedy_em", unit="round")
    found = [alarm for number, row in enumerate(rows) for alarm in watch.see(number, row)]
    assert not any(alarm.over for alarm in found)
    return [(alarm.step, alarm.rule, alarm.message) for alarm in found]


def one(*values: float | None, **changes: float) -> Sequence[Sequence[float | None]]:
    return [tuple((dict(zip(NAMES, values, strict=True)) | changes).values())]


FINE = {
    "EXSEARCH": rounds(EXSEARCH, [0.414, 0.898, 1.0, 1.0, 1.0]),
    "DRO, whose first round falls within chance": rounds(DRO, [0.844, 0.789, 0.914, 0.953, 0.938]),
    "a smoke, too short to judge": [*rounds([SMOKE], [0.438, 0.312])[:1], {"greedy_em": 0.312, "eval_rows": 16}],
    "figures of few questions": rounds([SMOKE], [0.0, 0.125]),
    "uniform weights, as told": rounds(UNIFORM[:1], [0.414, 0.391], "uniform"),
    "one rollout a question": rounds(one(*EXSEARCH[0], collapsed=1.0, ess_ratio=1.0), [0.4, 0.5]),
}
HOPELESS = one(*UNTRAINED, questions=128, kept=128, closed_book_ahead=0.0)
SICK = {
    "weight_collapse": rounds(one(*EXSEARCH[0], collapsed=0.7, ess_ratio=0.2), [0.4, 0.5]),  # made up
    "flat_weights": rounds(HOPELESS, [0.0, 0.0]),
    "dropped_questions": rounds([(128, 6, 0.0, 0.221, -5.252, 0, None)], [0.008, 0.008]),
    "unusable_rollouts": rounds(one(*DRO[0], unscored=720), [0.4, 0.5]),  # made up
    "unread_passages": rounds(one(*DRO[0], closed_book_ahead=0.6), [0.4, 0.5]),  # made up
    "worse_round": rounds(UNIFORM, [0.414, 0.391, 0.023, 0.047, 0.023], "uniform"),
}


@pytest.mark.parametrize("case", FINE)
def test_rounds_that_learn_raise_nothing(case: str) -> None:
    assert alarms(FINE[case]) == []


@pytest.mark.parametrize("rule", ROUND_RULES, ids=lambda rule: rule.name)
def test_trouble_of_a_round_is_named_once(rule: Any) -> None:
    ((_, name, message),) = alarms(SICK[rule.name])
    assert name == rule.name
    assert "Likely:" in message
    assert "Try:" in message


def test_the_words_say_what_was_seen() -> None:
    dropped = SICK["dropped_questions"]
    dropped[1] |= {"em/dropped/all_wrong": 121.0, "em/dropped/unscored": 1.0}
    assert alarms(dropped)[0][2].startswith("122 of 128 questions were dropped, most of them as all_wrong (alarm:")
    assert alarms(SICK["worse_round"])[0][0] == 2
    assert "is 0.023 of 128 questions, was 0.414 after round 0" in alarms(SICK["worse_round"])[0][2]
    assert "effective sample size 1.6" in alarms(SICK["weight_collapse"])[0][2]
    assert "7.9 equal rollouts of 8" in alarms(SICK["flat_weights"])[0][2]
    assert "720 of 1024 rollouts" in alarms(SICK["unusable_rollouts"])[0][2]


def test_a_fall_that_may_be_chance_in_few_questions_is_none() -> None:
    rows = rounds(UNIFORM[:1], [0.5, 0.3], "uniform")
    assert alarms([row | {"eval_rows": 16} for row in rows]) == []
    assert [name for _, name, _ in alarms(rows)] == ["worse_round"]


RECALL = "probe/old/hfta"
REPLAY = {"replay/degenerate": 34 / 896, "replay/alike": 3 / 896, "replay/repeats": 193 / 695}
KEPT = {"released": (0.912, 0.776), "real": (0.992, 0.937), "a smoke": (0.219, 0.281), "EWC": (0.992, 0.761)}


def of_training(*rows: Row) -> list[str]:
    """Rules that a trainer's own watch says of these logs, and of an ordinary one between them."""
    watch = Watch()
    logs = [log for row in rows for log in (row, {name: healthy(1)[name] for name in ("loss", "grad_norm")})]
    return [alarm.rule for step, log in enumerate(logs) for alarm in watch.see(step, log)]


@pytest.mark.parametrize("arm", KEPT)
def test_replay_that_keeps_the_old_raises_nothing(arm: str) -> None:
    before, after = KEPT[arm]
    assert of_training(REPLAY, {RECALL: before}, {RECALL: after}) == []


@pytest.mark.parametrize(("before", "after", "said"), [(0.942, 0.416, 1), (0.912, 0.562, 1), (0.1, 0.02, 0)])
def test_forgetting_is_a_loss_of_what_was_known(before: float, after: float, said: int) -> None:
    """The first two are arms without replay."""
    assert of_training({RECALL: before}, {RECALL: after}) == ["forgetting"] * said


@pytest.mark.parametrize("name", REPLAY)
def test_replay_that_is_no_good_is_named(name: str) -> None:
    (rule,) = of_training(REPLAY | {name: 0.6})
    assert rule in {each.name for each in REPLAY_RULES if name in each.reads}


def test_the_documented_table_has_these_rules() -> None:
    text = DOCS.read_text()
    for rule in (*ROUND_RULES, *REPLAY_RULES):
        assert f"| `{rule.name}` | {rule.threshold} | {rule.cause} | {rule.knob} |" in text
