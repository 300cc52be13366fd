"""The one-layer model of benchmarks/replay_theory.py: its closed forms against other ways to get them, and training."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from benchmarks import replay_theory as theory
from benchmarks.replay_theory import EWC, L2, NEW, OLD, PROTECTED, Arm


def old_mass(arm: Arm) -> float:
    return float(theory.limit(arm)[OLD].sum())


def test_replay_moves_the_limit_linearly_in_the_share_of_the_token() -> None:
    masses = [old_mass(Arm(alpha=alpha)) for alpha in (1.0, 0.75, 0.5, 0.25)]
    np.testing.assert_allclose(np.diff(masses), np.diff(masses)[0], rtol=1e-12)
    assert masses[0] == pytest.approx(0.1 * 4 / 10)
    for alpha in (0.9, 0.3):
        assert theory.replay_share(alpha, 1.0) == pytest.approx(1 - alpha)
        share = theory.replay_share(alpha, 4.0)
        assert old_mass(Arm(alpha=alpha, times=4.0)) == pytest.approx(old_mass(Arm(alpha=1 - share)))


@pytest.mark.parametrize("arm", [Arm(L2, 0.003), Arm(EWC, 20.0), Arm(EWC, 300.0, others=0.02), Arm(PROTECTED, 0.2)])
def test_the_limit_is_the_minimum_of_the_penalised_loss(arm: Arm) -> None:
    start_V, q_V, pull_V = theory.setting(arm)

    def loss(y_V: np.ndarray) -> tuple[float, np.ndarray]:
        y = torch.tensor(y_V, requires_grad=True)
        parts = (
            torch.tensor(q_V) @ (theory.Z * y).log_softmax(0),
            torch.tensor(pull_V) @ (y - torch.tensor(start_V)) ** 2,
        )
        value = parts[1] / 2 - parts[0]
        value.backward()
        return value.item(), y.grad.numpy()

    best = minimize(loss, start_V, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 20_000})
    np.testing.assert_allclose(theory.softmax(theory.Z * best.x), theory.limit(arm), atol=1e-5)


def test_the_curvature_is_the_second_derivative_and_its_diagonal_the_fisher_information() -> None:
    q_V = theory.told(OLD, 0.1)
    y = torch.tensor(theory.storage(q_V))
    q = torch.tensor(q_V)
    hessian = torch.autograd.functional.hessian(lambda y: -(q @ (theory.Z * y).log_softmax(0)), y)
    np.testing.assert_allclose(theory.curvature(q_V), hessian.numpy(), atol=1e-12)
    slopes_OV = theory.Z * (q_V - np.eye(theory.V))  # of the loss of each object that the text may say
    np.testing.assert_allclose(np.diag(theory.curvature(q_V)), q_V @ slopes_OV**2, atol=1e-12)
    np.testing.assert_allclose(theory.softmax(theory.Z * y.numpy()), q_V, atol=1e-12)


@pytest.mark.parametrize("k", [1e-3, 1.0, 1e3])
def test_protecting_old_objects_alone_moves_nothing_but_the_speed(k: float) -> None:
    np.testing.assert_allclose(theory.limit(Arm(PROTECTED, k)), theory.limit(Arm()), atol=1e-8)
    assert theory.slowest_rate(Arm(PROTECTED, k)) < theory.slowest_rate(Arm()) / 2


@pytest.mark.parametrize("arm", [Arm(L2), Arm(EWC), Arm(EWC, others=0.02)])
def test_weights_on_new_objects_move_the_limit_as_computed(arm: Arm) -> None:
    start_V, q_V, weights_V = theory.setting(replace(arm, k=1.0))
    assert (weights_V[NEW] > 0).all()
    small = replace(arm, k=1e-3 / weights_V[NEW].max() / 1e3)
    assert old_mass(small) - old_mass(Arm()) == pytest.approx(theory.first_order(small), rel=0.01)
    masses = [old_mass(replace(arm, k=factor * small.k)) for factor in (1, 10, 100, 1000, 10_000)]
    assert (np.diff(masses) > 0).all()
    assert masses[-1] > 10 * masses[0]


def test_ewc_needs_a_strength_that_grows_as_new_facts_were_less_expected() -> None:
    grid = np.geomspace(0.1, 1e5, 400)
    half = [next(k for k in grid if old_mass(Arm(EWC, k, others=others)) > 0.5) for others in (0.02, 0.002, 0.0002)]
    assert 5 < half[1] / half[0] < 15
    assert 5 < half[2] / half[1] < 15


def test_sgd_ends_at_the_limits() -> None:
    arms = [Arm(), Arm(alpha=0.8), Arm(alpha=0.9, times=4.0), Arm(L2, 0.01), Arm(EWC, 20.0)]
    rows = theory.rows_of(arms, steps=8000, seed=1)
    for row in rows:
        assert row["old_measured"] == pytest.approx(row["old_at_limit"], abs=0.01)
        assert row["new_measured"] == pytest.approx(row["new_at_limit"], abs=0.01)
        assert row["course_of_old"][0] == pytest.approx(0.998 + 0.002 * 0.4, abs=1e-3)


def test_a_token_of_its_own_saves_the_old_fact() -> None:
    steps = 8_000
    neither, replay, ewc = (theory.own_tokens(*case, steps)[-1] for case in ((0.0, 1.0), (0.0, 0.8), (10.0, 1.0)))
    assert neither == pytest.approx(theory.own_tokens_untouched(), abs=1e-6)
    assert min(replay, ewc) > neither + 0.015


def test_the_committed_figures_are_those_of_these_formulas() -> None:
    figures = json.loads((theory.ROOT / "benchmarks/replay_theory.json").read_text())
    assert len(figures["arms"]) == len(theory.ARMS)
    assert figures["largest_difference_from_closed_form"] < 0.005
    for arm, row in zip(theory.ARMS, figures["arms"], strict=True):
        assert row["old_at_limit"] == pytest.approx(old_mass(arm), abs=1e-6)
