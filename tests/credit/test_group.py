"""The credit contract, entropy credit, and where the answer begins."""

import pytest
import torch

from rlft.credit import CreditError, Group, checked_weights, load_credit, needs
from rlft.credit.answer import answer_start
from rlft.credit.entropy import ALPHA, KAPPA, entropy
from rlft.plugins import PluginError
from rlft.tiny.tokenizer import char_tokenizer


def group(**fields: object) -> Group:
    base = {
        "completion_ids": [torch.arange(3), torch.arange(2)],
        "rewards": torch.tensor([1.0, 0.0]),
        "correct": torch.tensor([True, False]),
        "advantages": torch.tensor([0.8, -0.8]),
    }
    return Group(**(base | fields))  # type: ignore[arg-type]


def test_unscored_rollouts_are_neither_correct_nor_wrong() -> None:
    nan = float("nan")
    given = group(rewards=torch.tensor([1.0, nan]), correct=torch.tensor([True, False]))
    assert not given.mixed
    assert given.wrong.tolist() == [False, False]
    assert group().mixed


def test_constant_is_all_ones() -> None:
    assert [weight_T.tolist() for weight_T in load_credit("constant")(group())] == [[1, 1, 1], [1, 1]]


def test_entropy_adds_the_clipped_bonus_and_keeps_the_sign() -> None:
    entropies = [torch.tensor([0.0, 0.5, 9.0]), torch.tensor([0.5, 9.0])]
    given = group(entropy=entropies)
    for weight_T, entropy_T, advantage in zip(entropy(given), entropies, (0.8, -0.8), strict=True):
        for weight, value in zip(weight_T.tolist(), entropy_T.tolist(), strict=True):
            assert advantage * weight == pytest.approx(advantage + min(ALPHA * value, 0.8 / KAPPA), abs=1e-6)
            assert weight > 0


def test_entropy_of_zero_advantage_is_neutral() -> None:
    weights = entropy(group(entropy=[torch.ones(3), torch.ones(2)], advantages=torch.zeros(2)))
    assert all(torch.equal(weight_T, torch.ones_like(weight_T)) for weight_T in weights)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([[1.0] * 3, [1.0] * 2], "the weights of rollout 0 are a list"),
        ([torch.ones(3)], "1 weight tensors for 2 rollouts"),
        ([torch.ones(3), torch.ones(3)], r"rollout 1 has 2 tokens but its weights have shape \(3,\)"),
        ([torch.ones(3), torch.tensor([1.0, float("nan")])], "rollout 1 has a weight that is not finite"),
    ],
)
def test_a_bad_credit_function_is_named(answer: list[torch.Tensor], message: str) -> None:
    def broken(_: Group) -> list[torch.Tensor]:
        return answer

    with pytest.raises(CreditError, match=f"credit broken.*{message}"):
        checked_weights(broken, group())


def test_unknown_need_is_refused() -> None:
    def greedy(_: Group) -> list[torch.Tensor]:
        return []

    greedy.needs = {"logits"}  # type: ignore[attr-defined]
    with pytest.raises(CreditError, match="logits"):
        needs(greedy)


def test_unknown_credit_names_a_near_one() -> None:
    with pytest.raises(PluginError, match="shear"):
        load_credit("sheer")


def test_answer_starts_behind_the_last_marker() -> None:
    tokenizer = char_tokenizer()
    text = "<think>7+9+0=16</think>936"
    ids = tokenizer(text).input_ids
    start = answer_start(ids, tokenizer, "</think>")
    assert tokenizer.decode(ids[start:]) == "936"
    assert answer_start(ids, tokenizer, "####") == len(ids)
