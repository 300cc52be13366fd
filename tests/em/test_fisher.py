"""The weights are right because EM is: checked on a model whose trajectories can all be enumerated.

Fisher's identity, d log p(y) = sum_z p(z | y) d log p(z, y), makes the first step of the weighted M-step an estimate of
the gradient of the log-likelihood of the gold answer.
"""

import numpy as np
import pytest

from rlft.em.weighing import WeightOptions, weigh
from rlft.em.weights import importance_weights
from tests.em.enumerable import Enumerable, Floats

ANSWER = [0, 2, 2]


def finite_differences(model: Enumerable, step: float = 1e-5) -> Floats:
    """d log p(y) by central differences of fourth order."""
    gradient = np.zeros_like(model.theta)
    for i in range(model.theta.size):
        for factor, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            theta = model.theta.copy()
            theta[i] += factor * step
            gradient[i] += weight * model.at(theta).log_evidence(ANSWER) / (12 * step)
    return gradient


def weighted_gradient(model: Enumerable, k: int, rng: np.random.Generator, baseline: str = "none") -> Floats:
    """Gradient of the M-step's objective at the parameters that K trajectories were sampled from."""
    z_K = model.sample(k, rng)
    scores_K = model.log_likelihood_S(ANSWER)[z_K].tolist()
    weighed = weigh(scores_K, WeightOptions(baseline=baseline))
    assert weighed.weights_K is not None
    assert weighed.search_K is not None
    search = np.array(weighed.search_K) @ model.search_gradients_SP()[z_K]
    return search + np.array(weighed.weights_K) @ model.answer_gradients_SP(ANSWER)[z_K]


@pytest.mark.parametrize("seed", range(3))
def test_posterior_expectation_is_the_gradient(seed: int) -> None:
    model = Enumerable.random(seed)
    complete_SP = model.search_gradients_SP() + model.answer_gradients_SP(ANSWER)
    np.testing.assert_allclose(model.posterior_S(ANSWER) @ complete_SP, finite_differences(model), atol=1e-8)


def test_weights_of_all_states_in_proportion_to_the_prior_are_the_posterior() -> None:
    model = Enumerable.random(0)
    counts = np.array([1, 2, 3, 1, 2, 3])
    exact = model.at(np.concatenate([np.log(counts), model.theta[6:]]))
    states = np.repeat(np.arange(6), counts)
    weights_K = importance_weights(exact.log_likelihood_S(ANSWER)[states])
    np.testing.assert_allclose(np.bincount(states, weights_K), exact.posterior_S(ANSWER), rtol=1e-12)


def test_sampled_gradient_converges_to_it() -> None:
    model, rng = Enumerable.random(1), np.random.default_rng(0)
    truth = model.posterior_S(ANSWER) @ (model.search_gradients_SP() + model.answer_gradients_SP(ANSWER))
    errors = {}
    for k, repeats in ((8, 800), (128, 400), (2048, 100), (100_000, 4)):
        drawn = np.stack([weighted_gradient(model, k, rng) for _ in range(repeats)])
        errors[k] = float(np.sqrt(((drawn - truth) ** 2).sum(1).mean()))
    assert errors[128] < errors[8] / 2.5
    assert errors[2048] < errors[128] / 3
    assert errors[100_000] < 0.02
    assert errors[100_000] < errors[2048] / 4


@pytest.mark.parametrize("seed", range(3))
def test_group_baseline_keeps_the_expectation_and_lowers_the_variance(seed: int) -> None:
    """The baseline acts on the search tokens, i.e. on the prior's parameters."""
    model, rng = Enumerable.random(seed, scale=0.5), np.random.default_rng(1)
    prior = slice(0, model.states)
    truth = model.posterior_S(ANSWER) @ (model.search_gradients_SP() + model.answer_gradients_SP(ANSWER))
    drawn = {
        b: np.stack([weighted_gradient(model, 8, rng, b) for _ in range(4000)])[:, prior] for b in ("none", "group")
    }
    bias = {b: float(np.linalg.norm(values.mean(0) - truth[prior])) for b, values in drawn.items()}
    variance = {b: float(values.var(0).sum()) for b, values in drawn.items()}
    assert abs(bias["group"] - bias["none"]) < 0.02
    assert variance["group"] < 0.6 * variance["none"]


@pytest.mark.parametrize("seed", range(3))
def test_exact_em_never_lowers_the_log_likelihood(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source, model = Enumerable.random(10 + seed, scale=2.0), Enumerable.random(20 + seed)
    answers = [
        [int(token) for token in rng.choice(4, size=5, p=np.exp(source.log_emission_SV[z]))]
        for z in source.sample(80, rng)
    ]
    history = []
    for _ in range(51):
        history.append(sum(model.log_evidence(answer) for answer in answers))
        model = model.exact_em_round(answers)
    assert (np.diff(history) >= -1e-9).all()
    assert history[-1] > history[0] + 10, "50 rounds must have learnt something"
