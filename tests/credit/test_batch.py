"""From a padded batch to rows and groups, and back."""

import torch

from rlft.credit.batch import Outcomes, Row, group_of, spread, token_rows

NAN = float("nan")


def outcomes(rewards: list[float], advantages: list[float] | None = None) -> Outcomes:
    rewards_N = torch.tensor(rewards)
    advantages_N = rewards_N if advantages is None else torch.tensor(advantages)
    return Outcomes(rewards_N[:, None], rewards_N, rewards_N >= 0.5, advantages_N)


def test_a_group_is_mixed_if_both_outcomes_were_scored() -> None:
    said = outcomes([1, 1, 0, 0, 1, 0, 1, NAN, NAN, NAN])
    assert said.mixed(2) == [False, False, True, False, False]


def test_a_group_is_dead_without_any_advantage() -> None:
    assert outcomes([1, 1, 1, 0], [0, 0, 0.5, -0.5]).dead(2) == [True, False]


def test_rows_hold_model_tokens_only_and_spread_puts_weights_back() -> None:
    ids_BT = torch.tensor([[5, 6, 7, 0], [8, 0, 0, 0], [0, 0, 0, 0]])
    mask_BT = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    entropy_BT = ids_BT / 10
    rows = token_rows(ids_BT, mask_BT, {1: torch.ones(1, 2)}, entropy_BT, [0, 1, 0])
    assert [row.ids_T.tolist() for row in rows] == [[5, 7], [8], []]
    assert [row.hidden_TH is None for row in rows] == [True, False, True]
    assert rows[0].entropy_T is not None
    assert torch.equal(rows[0].entropy_T, torch.tensor([0.5, 0.7]))
    weights_BT = spread([torch.tensor([2.0, 3.0]), torch.tensor([4.0]), torch.zeros(0)], mask_BT)
    assert weights_BT.tolist() == [[2, 1, 3, 1], [4, 1, 1, 1], [1, 1, 1, 1]]


def test_a_group_takes_its_own_outcomes_and_only_what_its_rows_have() -> None:
    rows = [Row(torch.tensor([1])), Row(torch.tensor([2, 3]))]
    group = group_of(1, rows, outcomes([0, 0, 1, 0]))
    assert group.rewards.tolist() == [1, 0]
    assert group.lengths == [1, 2]
    assert group.hidden is group.entropy is group.answer_start is None
