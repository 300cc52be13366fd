"""States from decoding steps equal those of one forward over the whole text, or there are none."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlft.credit.decoding import DecodedStates
from rlft.credit.hidden import HiddenTap, drops_out
from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer

PROMPTS = ["1+1=", "22+33=", "4", "56+789="]
LENGTH = 7


@pytest.fixture(scope="module")
def model() -> Any:
    torch.set_num_threads(1)
    return tiny_model(char_tokenizer(), hidden=32, layers=2).eval()


def inputs(prompts: list[str]) -> dict[str, Tensor]:
    return dict(char_tokenizer()(prompts, padding=True, padding_side="left", return_tensors="pt"))


def decoded(
    model: Any, prompts: list[str], lengths: list[int], **options: Any
) -> tuple[DecodedStates, list[list[int]]]:
    """Sample with the states tapped; completions are cut to `lengths`, as TRL cuts them behind their end."""
    torch.manual_seed(0)
    states = DecodedStates(HiddenTap(model))
    given = inputs(prompts)
    with states.capture():
        ids = model.generate(**given, **({"do_sample": True, "max_new_tokens": max(lengths)} | options))
    cut = ids[:, given["input_ids"].size(1) :]
    completions = [row[:length].tolist() for row, length in zip(cut, lengths, strict=True)]
    states.finish(completions)
    return states, completions


def padded(completions: list[list[int]], length: int) -> tuple[Tensor, Tensor]:
    ids_BT = torch.zeros(len(completions), length, dtype=torch.long)
    mask_BT = torch.zeros(len(completions), length, dtype=torch.bool)
    for row, ids in enumerate(completions):
        ids_BT[row, : len(ids)], mask_BT[row, : len(ids)] = torch.tensor(ids), True
    return ids_BT, mask_BT


def expected(model: Any, prompt: str, completion: list[int]) -> Tensor:
    ids = torch.tensor([char_tokenizer()(prompt).input_ids + completion])
    with torch.no_grad():
        return model.base_model(input_ids=ids).last_hidden_state[0, -len(completion) :]


@pytest.mark.parametrize("prompts", [PROMPTS, ["4", "7"]], ids=["padded", "of one token"])
@pytest.mark.parametrize("longest", [1, LENGTH])
def test_states_equal_those_of_one_forward(model: Any, prompts: list[str], longest: int) -> None:
    """The longest completion's last token too, which `generate` never reads; T is padded beyond it."""
    lengths = [max(1, longest - 3 * row) for row in range(len(prompts))]
    states, completions = decoded(model, prompts, lengths, eos_token_id=None)
    ids_BT, mask_BT = padded(completions, LENGTH + 1)
    rows_R = torch.tensor([0, len(prompts) - 1])
    states_RTH = states.of(ids_BT, mask_BT, rows_R)
    assert states_RTH is not None
    for states_TH, row in zip(states_RTH, rows_R.tolist(), strict=True):
        found = states_TH[mask_BT[row]]
        assert torch.allclose(found, expected(model, prompts[row], completions[row]), atol=1e-5)
    assert not model.base_model._forward_hooks
    assert not model.base_model._forward_pre_hooks


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"use_cache": False}, {"prompt_lookup_num_tokens": 2}])
def test_other_ways_to_decode_give_no_states(model: Any, options: dict[str, Any]) -> None:
    prompts = PROMPTS[:1] if "prompt_lookup_num_tokens" in options else PROMPTS
    states, completions = decoded(model, prompts, [LENGTH] * len(prompts), eos_token_id=None, **options)
    ids_BT, mask_BT = padded(completions, LENGTH)
    if "prompt_lookup_num_tokens" in options and len(states.steps) == LENGTH:
        pytest.skip("no draft was ever made")
    assert states.of(ids_BT, mask_BT, torch.arange(len(prompts))) is None


def test_completions_that_the_steps_have_not_read_get_no_states(model: Any) -> None:
    states, completions = decoded(model, PROMPTS, [LENGTH] * 4, eos_token_id=None)
    ids_BT, mask_BT = padded(completions, LENGTH)
    every = torch.arange(4)
    assert states.of(ids_BT, mask_BT, every) is not None
    changed_BT = ids_BT.clone()
    changed_BT[2, 3] += 1
    assert states.of(changed_BT, mask_BT, every) is None
    assert states.of(changed_BT, mask_BT, torch.tensor([0, 1, 3])) is not None
    assert states.of(ids_BT[:3], mask_BT[:3], every[:3]) is None
    nothing = states.of(ids_BT, torch.zeros_like(mask_BT), every)
    assert nothing is not None, "masked completions need no token's state"
    longer_BT, longer_mask_BT = padded([[*ids, 5] for ids in completions], LENGTH + 1)
    assert states.of(longer_BT, longer_mask_BT, every) is None


class Holder(nn.Module):
    def __init__(self, **settings: float):
        super().__init__()
        vars(self).update(settings)


@pytest.mark.parametrize(
    ("module", "random"),
    [
        (nn.Dropout(0.1), True),
        (nn.Dropout(0.0), False),
        (Holder(attention_dropout=0.1), True),
        (Holder(dropout=0.0, layerdrop=0.2), True),
        (Holder(jitter_noise=0.01), True),
        (Holder(attention_dropout=0.0, scaling=0.5), False),
    ],
)
def test_what_makes_a_forward_in_training_mode_random(module: nn.Module, random: bool) -> None:
    assert drops_out(nn.Sequential(nn.Linear(2, 2), module)) is random


def test_the_model_used_here_is_not_random(model: Any) -> None:
    assert not drops_out(model)


def test_the_tap_is_gone_after_an_error(model: Any) -> None:
    with pytest.raises(RuntimeError, match="generate failed"), DecodedStates(HiddenTap(model)).capture():
        raise RuntimeError("generate failed")
    assert not model.base_model._forward_hooks
