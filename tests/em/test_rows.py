"""Training rows: which tokens are trained on, with which weight, the gold answer in its place."""

import pytest

from rlft.em.options import EMOptions
from rlft.em.rows import IGNORED, demonstration_rows, training_rows, with_answer
from rlft.rollouts.trajectory import FinishReason, Segment, Trajectory

SEARCHED, GOLD = Segment([5], False, "search"), Segment([10], True, "answer")
BRANCH = Trajectory([30], [Segment([31, 32], True, "select")], FinishReason.STOP)
SAMPLED = Trajectory(
    prompt_ids=[1, 2],
    segments=[
        Segment([3, 4], True, "act"),
        Segment([5], False, "search"),
        Segment([6], True, "act"),
        Segment([7], False, "request"),
        Segment([8, 9, 9], True, "answer"),
    ],
    finish=FinishReason.STOP,
    branches=[BRANCH],
)


def rows(answer_weight: float = 0.5, search_weight: float = 0.5, **options: object) -> list[dict[str, list[float]]]:
    whole = with_answer(SAMPLED, [10])
    return list(training_rows(whole, answer_weight, search_weight, EMOptions(**options)))  # type: ignore[arg-type]


def test_the_gold_answer_takes_the_place_of_the_sampled_one() -> None:
    main, branch = rows()
    assert main["input_ids"] == [1, 2, 3, 4, 5, 6, 7, 10]
    assert main["labels"] == [IGNORED, IGNORED, 3, 4, IGNORED, 6, IGNORED, 10]
    assert branch["input_ids"] == [30, 31, 32]
    assert branch["labels"] == [IGNORED, 31, 32]


@pytest.mark.parametrize(("reduction", "token", "branch_token"), [("mean", 0.125, 0.25), ("sum", 0.5, 0.5)])
def test_tokens_share_the_weight_or_each_have_it(reduction: str, token: float, branch_token: float) -> None:
    main, branch = rows(token_reduction=reduction)
    assert main["weights"] == [0, 0, token, token, 0, token, 0, token]
    assert branch["weights"] == [0, branch_token, branch_token]
    assert main["mass"] == branch["mass"] == 1


def test_demonstrations_count_by_their_tokens() -> None:
    (row,) = demonstration_rows(Trajectory([1], [Segment([2, 3], True, "act"), SEARCHED, GOLD], FinishReason.STOP))
    assert row["labels"] == [IGNORED, 2, 3, IGNORED, 10]
    assert row["weights"] == [0, 1, 1, 0, 1]
    assert row["mass"] == 3


def test_search_and_answer_have_weights_and_coefficients_of_their_own() -> None:
    main, branch = rows(0.5, -0.25, token_reduction="sum", search_coef=2.0, answer_coef=3.0)
    assert main["weights"] == [0, 0, -0.5, -0.5, 0, -0.5, 0, 1.5]
    assert branch["weights"] == [0, -0.5, -0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weighting": "best"}, "weighting='best' is none of likelihood, uniform, rejection"),
        ({"num_generations": 0}, "num_generations=0 must be at least 1"),
        ({"weight_temperature": 0.0}, "weight_temperature=0.0 must be positive"),
        ({"ess_floor": 1.0}, r"ess_floor=1.0 must be in \[0, 1\)"),
        ({"num_generations": 4, "max_weight": 0.2}, "max_weight=0.2 must be from 1/num_generations=0.25 to 1"),
    ],
)
def test_options_out_of_range_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EMOptions(**changes).check_em()  # type: ignore[arg-type]
