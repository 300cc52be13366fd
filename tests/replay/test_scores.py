"""Token scores against loops over the map, closed forms, and bad input."""

import numpy as np
import pytest

from rlft.replay.scores import SCORERS, token_scores
from tests.replay.maps import content_free, mass, planted, uniform


@pytest.mark.parametrize("scorer", ["fair", "sinkless"])
@pytest.mark.parametrize("tokens", [1, 2, 7, 60, 512])
def test_uniform_attention_gives_every_token_the_same_corrected_score(tokens: int, scorer: str) -> None:
    assert token_scores(mass(uniform(tokens)), scorer) == pytest.approx(np.ones(tokens), abs=1e-6)


def test_released_scores_of_uniform_attention_fall_from_the_first_token_on() -> None:
    assert (np.diff(token_scores(mass(uniform(60)), "released")) < 0).all()


def test_scores_equal_the_formulas_written_as_loops() -> None:
    map_TT = content_free(9, 0)
    c = [sum(map_TT[i, j] for i in range(j, 9)) for j in range(9)]
    e = [sum(1 / (i + 1) for i in range(j, 9)) for j in range(9)]
    assert token_scores(c, "released") == pytest.approx([c[j] / (j + 1) for j in range(9)])
    assert token_scores(c, "fair") == pytest.approx([c[j] / e[j] for j in range(9)])


@pytest.mark.parametrize("column", [0, 1, 20, 45, 59])
def test_a_planted_column_has_the_best_fair_score(column: int) -> None:
    assert token_scores(mass(planted(60, column, 0.2)), "fair").argmax() == column


def test_a_planted_column_is_lost_on_the_released_score() -> None:
    assert token_scores(mass(planted(60, 45, 0.2)), "released").argmax() == 0


def test_fair_scores_of_content_free_attention_do_not_fall_with_the_place() -> None:
    """Averages over 200 samples are 1 everywhere, to the standard error."""
    scores = np.array([token_scores(mass(content_free(40, seed)), "fair") for seed in range(200)])
    error_T = scores.std(0, ddof=1) / np.sqrt(200)
    assert (np.abs(scores.mean(0) - 1) < 4.5 * error_T + 1e-6).all()


@pytest.mark.parametrize("strength", [10.0, 30.0, 300.0])
def test_a_sink_on_the_first_token_leaves_the_sinkless_scores_of_the_others_alike(strength: float) -> None:
    """Every row attends to token 0 `strength` times as much as to each other token: fair scores rise by the place."""
    map_TT = np.tril(np.ones((120, 120)))
    map_TT[:, 0] = strength
    masses = mass(map_TT / map_TT.sum(1, keepdims=True))
    late, early = slice(60, 112), slice(6, 20)
    sinkless = token_scores(masses, "sinkless")
    assert sinkless[6:112] == pytest.approx(np.ones(106), abs=0.01)
    fair = token_scores(masses, "fair")
    assert fair[late].mean() > 1.1 * fair[early].mean()


@pytest.mark.parametrize("masses", [np.eye(1, 30)[0] * 30, np.full(30, 1.0), np.r_[30 - 1e-9, np.full(29, 1e-9 / 29)]])
def test_tokens_without_attention_have_finite_scores(masses: np.ndarray) -> None:
    assert np.isfinite(token_scores(masses, "sinkless")).all()


@pytest.mark.parametrize("scorer", [*sorted(set(SCORERS) - {"released", "fair", "sinkless"}), "attention"])
def test_other_scorers_score_no_tokens(scorer: str) -> None:
    with pytest.raises(ValueError, match="released, fair, sinkless do"):
        token_scores([1.0], scorer)


@pytest.mark.parametrize(
    ("masses", "message"),
    [
        ([], "at least one"),
        ([[1.0, 1.0]], "shape"),
        ([3.0, -1.0], "negative"),
        ([float("nan"), 1.0], "non-finite"),
        ([1.5, 1.0, 0.5, 0.0], "cut the padding off"),
    ],
)
def test_mass_that_is_none_is_refused(masses: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_scores(masses, "fair")
