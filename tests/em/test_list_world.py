"""DRO's theory (arXiv 2505.03075, section 3) where every list can be summed over: what holds, and what does not."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlft.em.lists import weigh_lists
from rlft.em.weighing import WeightOptions
from rlft.rollouts.list_text import spell
from rlft.tiny.model import tiny_model
from rlft.tiny.word_tokenizer import word_tokenizer
from tests.em.list_world import (
    ABSENT,
    FIRST,
    LISTS,
    PLACES_CZ,
    SECOND,
    ListWorld,
    Questions,
    multisets,
    questions_of,
    true_world,
    warm_world,
)


def e_step(world: ListWorld, questions: Questions, m: int, generator: torch.Generator, dedup: str) -> Tensor:
    """(N, Z) what the weights of m sampled lists a question give to every list."""
    z_NM = torch.multinomial(world.log_select_TZ[questions.types_N].exp(), m, replacement=True, generator=generator)
    scores_NM = world.log_likelihood_NZ(questions).gather(1, z_NM)
    weights_NM = [
        weigh_lists([LISTS[z] for z in z_M], scores_M, WeightOptions(), dedup).weights_K
        for z_M, scores_M in zip(z_NM.tolist(), scores_NM.tolist(), strict=True)
    ]
    given_NM = torch.tensor(weights_NM, dtype=torch.float64)
    return torch.zeros(len(z_NM), len(LISTS), dtype=torch.float64).scatter_add(1, z_NM, given_NM)


def exact_em(world: ListWorld, questions: Questions, rounds: int, train: str = "both") -> tuple[ListWorld, list[float]]:
    """The last world and the log-likelihood per question before every round and after the last."""
    history = []
    for _ in range(rounds):
        history.append(per_question(world, questions))
        world = world.m_step(questions, world.posterior_NZ(questions), train=train)
    return world, [*history, per_question(world, questions)]


def per_question(world: ListWorld, questions: Questions) -> float:
    return world.log_evidence(questions).item() / len(questions.types_N)


# --- Expectation maximisation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["both", "selector", "generator"])
@pytest.mark.parametrize("seed", range(3))
def test_exact_em_raises_the_log_likelihood_every_round(seed: int, train: str) -> None:
    _, history = exact_em(warm_world(seed), questions_of(true_world(), 80, seed), 40, train)
    assert min(after - before for before, after in pairwise(history)) > 1e-7
    assert history[-1] > history[0] + 0.05


@pytest.mark.parametrize("seed", range(3))
def test_frozen_selector_and_frozen_generator_end_lower(seed: int) -> None:
    questions = questions_of(true_world(), 80, seed)
    end = {
        train: exact_em(warm_world(seed), questions, 200, train)[1][-1] for train in ("both", "selector", "generator")
    }
    assert end["both"] > end["selector"] + 0.1
    assert end["both"] > end["generator"] + 0.1


def test_a_gradient_step_in_place_of_the_maximum_raises_it_too() -> None:
    """The M-step need not end at the maximum, and the selector need not be a table."""
    questions, theta = questions_of(true_world(), 80), random_theta("ids", 0)
    history = []
    for _ in range(60):
        world = ListWorld.of_logits(theta.requires_grad_(), "ids")
        history.append(per_question(world, questions))
        theta = (theta - 0.05 * torch.autograd.grad(weighted_loss(world, questions), theta)[0]).detach()
    assert min(after - before for before, after in pairwise(history)) > 0
    assert history[-1] > history[0] + 0.05


def sampled_em(questions: Questions, m: int, dedup: str) -> float:
    """Log-likelihood per question after 60 rounds, mean of three seeds."""
    ends = []
    for seed in range(3):
        world, generator = warm_world(), torch.Generator().manual_seed(seed)
        for _ in range(60):
            world = world.m_step(questions, e_step(world, questions, m, generator, dedup), step=0.5)
        ends.append(per_question(world, questions))
    return float(np.mean(ends))


def test_sampled_em_ends_closer_to_exact_em_the_more_lists_are_drawn() -> None:
    questions = questions_of(true_world(), 40, seed=1)
    _, history = exact_em(warm_world(), questions, 200)
    gaps = {m: history[-1] - sampled_em(questions, m, "count") for m in (2, 8, 64)}
    assert gaps[2] > 2 * gaps[8] > 4 * gaps[64] > 0
    assert gaps[64] < 0.06 * (history[-1] - history[0])


def test_support_ends_further_away_the_more_lists_are_drawn() -> None:
    questions = questions_of(true_world(), 40, seed=1)
    few, many = (sampled_em(questions, m, "support") for m in (8, 64))
    assert many < few - 0.05 < sampled_em(questions, 8, "count") - 0.1


# --- Gradients --------------------------------------------------------------------------------------------------------


def random_theta(form: str, seed: int) -> Tensor:
    size = 4 * (len(LISTS) if form == "table" else 4) + 9
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weighted_loss(world: ListWorld, questions: Questions) -> Tensor:
    """The two losses of the M-step, with the posterior as constant weights."""
    weights_NZ = world.posterior_NZ(questions).detach()
    learn_to_select = -(weights_NZ * world.log_select_TZ[questions.types_N]).sum()
    return learn_to_select - (weights_NZ * world.log_likelihood_NZ(questions)).sum()


@pytest.mark.parametrize("form", ["table", "ids"])
@pytest.mark.parametrize("seed", range(2))
def test_gradient_of_the_weighted_loss_is_that_of_the_log_likelihood(form: str, seed: int) -> None:
    questions, theta = questions_of(true_world(), 24, seed), random_theta(form, seed)
    truth = torch.zeros_like(theta)
    for i in range(theta.numel()):
        for factor, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            moved = theta.clone()
            moved[i] += factor * 1e-3
            truth[i] += weight * ListWorld.of_logits(moved, form).log_evidence(questions) / (12 * 1e-3)
    theta.requires_grad_()
    (gradient,) = torch.autograd.grad(-weighted_loss(ListWorld.of_logits(theta, form), questions), theta)
    torch.testing.assert_close(gradient, truth, atol=1e-8, rtol=0)
    assert gradient.abs().min() > 1e-6


@pytest.mark.parametrize("dedup", ["count", "none"])
def test_group_baseline_leaves_the_expected_gradient_and_lowers_its_variance(dedup: str) -> None:
    """Over every sample of 4 lists from the selector itself."""
    chances_Z, scores_Z = one_question(warm_world())
    moments = {}
    for baseline in ("none", "group"):
        options, mean_Z, square = WeightOptions(baseline=baseline), np.zeros(len(LISTS)), 0.0
        for states, chance in multisets(chances_Z.tolist(), 4):
            weighed = weigh_lists([LISTS[z] for z in states], scores_Z[list(states)].tolist(), options, dedup)
            search_K = np.array(weighed.search_K)
            gradient_Z = np.bincount(states, search_K, len(LISTS)) - search_K.sum() * chances_Z
            mean_Z, square = mean_Z + chance * gradient_Z, square + chance * gradient_Z @ gradient_Z
        moments[baseline] = mean_Z, square - mean_Z @ mean_Z
    np.testing.assert_allclose(moments["group"][0], moments["none"][0], atol=1e-12)
    assert moments["group"][1] < 0.2 * moments["none"][1]


# --- Weights ----------------------------------------------------------------------------------------------------------


def one_question(world: ListWorld, gold: int = 0, answer: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """p(z | x) and log p(y | x, z) of one question of type 0, (Z,) each."""
    question = Questions(torch.tensor([0]), torch.tensor([gold]), torch.tensor([answer]))
    return world.log_select_TZ[0].exp().numpy(), world.log_likelihood_NZ(question)[0].numpy()


def test_counts_in_proportion_to_the_prior_give_the_posterior_and_support_the_likelihood_alone() -> None:
    counts_Z = np.array([9, 5, 1, 1, 2, 1, 3, 1, 1, 4, 1, 2])
    _, scores_Z = one_question(true_world())
    drawn = np.repeat(np.arange(len(LISTS)), counts_Z)
    lists, scores = [LISTS[z] for z in drawn], scores_Z[drawn].tolist()
    of_list = {
        dedup: np.bincount(drawn, weigh_lists(lists, scores, WeightOptions(), dedup).weights_K)
        for dedup in ("none", "count", "support")
    }
    posterior_Z, likelihood_Z = counts_Z * np.exp(scores_Z), np.exp(scores_Z)
    np.testing.assert_allclose(of_list["none"], posterior_Z / posterior_Z.sum(), rtol=1e-12)
    np.testing.assert_allclose(of_list["count"], of_list["none"], rtol=1e-12)
    np.testing.assert_allclose(of_list["support"], likelihood_Z / likelihood_Z.sum(), rtol=1e-12)
    assert np.abs(of_list["support"] - of_list["count"]).sum() > 0.3


def test_expected_target_of_counts_is_that_of_samples_and_of_support_another() -> None:
    """Over every sample of 4 lists; with a uniform selector `support` differs by nothing but the lost copies."""
    chances_Z, scores_Z = one_question(true_world())
    target = {dedup: np.zeros(len(LISTS)) for dedup in ("none", "count", "support")}
    for states, chance in multisets(chances_Z.tolist(), 4):
        for dedup, total_Z in target.items():
            weighed = weigh_lists([LISTS[z] for z in states], scores_Z[list(states)].tolist(), WeightOptions(), dedup)
            total_Z += chance * np.bincount(states, weighed.weights_K, len(LISTS))
    np.testing.assert_allclose(target["count"], target["none"], atol=1e-14)
    assert np.abs(target["support"] - target["none"]).sum() > 0.04
    assert target["support"].max() < target["none"].max(), "the lists the selector prefers lose"


def test_support_leaves_the_optimum_that_counts_keep() -> None:
    questions = questions_of(true_world(), 80)
    best, history = exact_em(warm_world(), questions, 200)
    likelihood_NZ = best.log_likelihood_NZ(questions).softmax(1)
    assert per_question(best.m_step(questions, best.posterior_NZ(questions)), questions) >= history[-1]
    assert per_question(best.m_step(questions, likelihood_NZ), questions) < history[-1] - 0.05


def test_weights_times_samples_are_likelihoods_over_their_mean() -> None:
    _, scores_Z = one_question(true_world())
    drawn = [0, 0, 3, 7, 7, 7, 11, 2]
    lists, r_K = [LISTS[z] for z in drawn], np.exp(scores_Z[drawn])
    weighed = weigh_lists(lists, scores_Z[drawn].tolist(), WeightOptions(), "none")
    np.testing.assert_allclose(8 * np.array(weighed.weights_K), r_K / r_K.mean(), rtol=1e-12)


def test_importance_weights_exceed_one_and_may_raise_the_variance() -> None:
    """w = posterior / selector has mean 1 under the selector, so it is not at most 1, as a variance that falls asks."""
    changes = []
    for gold in range(4):
        for answer in range(3):
            p_Z, scores_Z = one_question(true_world(), gold, answer)
            posterior_Z = p_Z * np.exp(scores_Z) / (p_Z @ np.exp(scores_Z))
            w_Z, f_Z = posterior_Z / p_Z, np.log(p_Z) + scores_Z
            assert p_Z @ w_Z == pytest.approx(1, abs=1e-12)
            assert posterior_Z @ w_Z == pytest.approx(p_Z @ w_Z**2, abs=1e-12)
            assert p_Z @ w_Z**2 > 1
            assert w_Z.max() > 1
            before = posterior_Z @ f_Z**2 - (posterior_Z @ f_Z) ** 2
            after = p_Z @ (w_Z * f_Z) ** 2 - (p_Z @ (w_Z * f_Z)) ** 2
            assert after - before == pytest.approx(posterior_Z @ (f_Z**2 * (w_Z - 1)), abs=1e-10)
            changes.append(after - before)
    assert max(changes) > 1
    assert (len(changes), sum(change > 0 for change in changes)) == (12, 11)


def test_bias_of_self_normalised_weights_falls_as_one_over_m() -> None:
    """Exact, over every sample of m places of the gold candidate; m times the bias has the delta method's limit."""
    p_Z, scores_Z = one_question(warm_world(), answer=2)
    at_P = [np.flatnonzero(PLACES_CZ[0].numpy() == place) for place in (FIRST, SECOND, ABSENT)]
    p_P = np.array([p_Z[at].sum() for at in at_P])
    scores_P, lists_P = scores_Z[[at[0] for at in at_P]], [LISTS[at[0]] for at in at_P]
    ratio_P = np.exp(scores_P) / (p_P @ np.exp(scores_P))
    posterior_P = p_P * ratio_P
    bias = {}
    for m in (1, 2, 4, 8, 16, 32):
        mean_P = np.zeros(3)
        for states, chance in multisets(p_P.tolist(), m):
            weighed = weigh_lists([lists_P[s] for s in states], scores_P[list(states)].tolist(), WeightOptions())
            mean_P += chance * np.bincount(states, weighed.weights_K, 3)
        bias[m] = mean_P - posterior_P
    np.testing.assert_allclose(bias[1], p_P - posterior_P, atol=1e-12, err_msg="one sample teaches the selector itself")
    limit_P = -p_P * ratio_P**2 + posterior_P * (p_P @ ratio_P**2)
    np.testing.assert_allclose(32 * bias[32], limit_P, rtol=0.03)
    assert all(0.4 < np.linalg.norm(bias[2 * m]) / np.linalg.norm(bias[m]) < 0.6 for m in (2, 4, 8, 16))


# --- Transformers -----------------------------------------------------------------------------------------------------


def log_probabilities(model: PreTrainedModel, rows_ZT: list[list[int]], written: int) -> Tensor:
    """(Z,) log-probabilities of the last `written` tokens of each row."""
    ids_ZT = torch.tensor(rows_ZT)
    log_ZTV = model(input_ids=ids_ZT).logits[:, -written - 1 : -1].log_softmax(-1)
    return log_ZTV.gather(2, ids_ZT[:, -written:, None]).sum((1, 2))


@pytest.mark.parametrize("constrained", [False, True])
def test_gradient_of_two_transformers(constrained: bool) -> None:
    """All 12 lists, spelling and end of turn; constrained decoding divides p(z) by their sum, in the loss as well."""
    tokenizer = word_tokenizer()
    selector, generator = (tiny_model(tokenizer, hidden=32, layers=2, seed=seed).double() for seed in (0, 1))
    passages = ["lula was born in fisi", "zinu was born in rebu", "moda works at kuda labs", "lula is mentored by moda"]
    shown = " ".join(f"[{c + 1}] {text}" for c, text in enumerate(passages))
    asked = [f"<|u|> {shown} where was lula born ? <|end|> <|a|> {spell(places)} <|end|>" for places in LISTS]
    read = [
        f"<|u|> [1] {passages[a]} [2] {passages[b]} where was lula born ? <|end|> <|a|> fisi <|end|>" for a, b in LISTS
    ]
    log_list_Z = log_probabilities(selector, [tokenizer(text).input_ids for text in asked], written=4)
    log_answer_Z = log_probabilities(generator, [tokenizer(text).input_ids for text in read], written=2)
    if constrained:
        log_list_Z = log_list_Z - log_list_Z.logsumexp(0)
    weights_Z = (log_list_Z + log_answer_Z).softmax(0).detach()
    losses = -(weights_Z * log_list_Z).sum() - (weights_Z * log_answer_Z).sum()
    parameters = [*selector.parameters(), *generator.parameters()]
    weighted = torch.autograd.grad(-losses, parameters, retain_graph=True)
    truth = torch.autograd.grad((log_list_Z + log_answer_Z).logsumexp(0), parameters, retain_graph=True)
    for ours, theirs in zip(weighted, truth, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-6)
    assert min(gradient.abs().max() for gradient in truth) > 1e-4

    drawn_M = torch.multinomial(
        log_list_Z.softmax(0).detach(), 20_000, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    weighed = weigh_lists([LISTS[z] for z in drawn_M], log_answer_Z[drawn_M].tolist(), WeightOptions())
    np.testing.assert_allclose(np.bincount(drawn_M, weighed.weights_K, len(LISTS)), weights_Z, atol=0.02)
