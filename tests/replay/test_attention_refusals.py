"""What attention mass refuses, and that a refusal leaves the model as it was."""

from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BartConfig, BertConfig, BloomConfig

from rlft.replay.attention import attention_mass
from tests.replay.attention_models import EAGER_ONLY, STREAMED, VOCABULARY, ids_of, mamba, model_of

IDS_BT = ids_of(2, 12)


@pytest.fixture
def model() -> Any:
    return model_of(STREAMED["llama"]())


@pytest.mark.parametrize("name", EAGER_ONLY)
def test_unknown_attention_names_the_eager_option(name: str) -> None:
    model = model_of(EAGER_ONLY[name]())
    own = model.config._attn_implementation
    with pytest.raises(ValueError, match='use method="eager"'):
        attention_mass(model, IDS_BT)
    assert model.config._attn_implementation == own


def test_biased_attention_names_the_eager_option() -> None:
    model = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4))
    with pytest.raises(ValueError, match='code of its own: use method="eager"'):
        attention_mass(model, IDS_BT)
    sums_B = attention_mass(model, IDS_BT, method="eager").sum(1)
    assert torch.allclose(sums_B, torch.full((2,), 12.0))


def test_layers_without_maps_are_left_out_aloud() -> None:
    with pytest.warns(UserWarning, match="1 of 4 layers that have attention maps"):
        attention_mass(model_of(EAGER_ONLY["qwen3_next"]()), IDS_BT, method="eager")


@pytest.mark.parametrize("method", ["stream", "eager"])
def test_a_model_without_attention(method: Any) -> None:
    with pytest.raises(ValueError, match="ordinary attention kernel|none of the 2 layers"):
        attention_mass(mamba(), IDS_BT, method=method)


def test_an_unknown_argument_of_the_attention_function(model: Any) -> None:
    attention = model.model.layers[1].self_attn
    hook = attention.register_forward_pre_hook(
        lambda _, args, kwargs: (args, kwargs | {"s_aux": 1.0}), with_kwargs=True
    )
    with pytest.raises(ValueError, match='LlamaAttention sets s_aux, .* use method="eager"'):
        attention_mass(model, IDS_BT)
    hook.remove()
    assert model.config._attn_implementation == "sdpa"


def test_a_bias_in_the_mask(model: Any) -> None:
    bias = {"attention_mask": torch.zeros(2, 1, 12, 12)}
    attention = model.model.layers[1].self_attn
    attention.register_forward_pre_hook(lambda _, args, kwargs: (args, kwargs | bias), with_kwargs=True)
    with pytest.raises(ValueError, match='a bias perhaps: use method="eager"'):
        attention_mass(model, IDS_BT)


def test_a_layer_that_is_used_twice(model: Any) -> None:
    model.model.layers[2] = model.model.layers[0]
    with pytest.raises(ValueError, match="3 layers, but 2 modules called the attention function 3 times"):
        attention_mass(model, IDS_BT)


def test_attention_both_ways() -> None:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    model = AutoModelForCausalLM.from_config(BertConfig(**sizes, num_hidden_layers=2, is_decoder=False))
    with pytest.raises(ValueError, match="causal attention only"):
        attention_mass(model, IDS_BT)
    with pytest.raises(ValueError, match="causal attention only"):
        attention_mass(model, IDS_BT, method="eager")


def test_an_encoder_decoder() -> None:
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    model = AutoModelForSeq2SeqLM.from_config(BartConfig(vocab_size=VOCABULARY, d_model=32, **sizes))
    with pytest.raises(ValueError, match="encoder-decoder"):
        attention_mass(model, IDS_BT)


def test_virtual_tokens(model: Any) -> None:
    prompted = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ValueError, match="prompt-learning"):
        attention_mass(prompted, IDS_BT)


def test_value_weighting_of_an_unknown_projection(model: Any) -> None:
    attention = model.model.layers[0].self_attn
    attention.dense = nn.Linear(32, 32)
    with pytest.raises(ValueError, match=r"\['dense', 'o_proj'\] .* use weighting=\"mean\""):
        attention_mass(model, IDS_BT, weighting="value")
    del attention.dense
    attention.o_proj.register_forward_pre_hook(lambda _, args: (args[0] * 0.5,), prepend=True)
    with pytest.raises(ValueError, match='a gate or a norm.* use weighting="mean"'):
        attention_mass(model, IDS_BT, weighting="value")
    assert len(attention.o_proj._forward_pre_hooks) == 1


def test_options(model: Any) -> None:
    with pytest.raises(ValueError, match="weighting is 'sum'; it must be one of mean, value"):
        attention_mass(model, IDS_BT, weighting="sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="method is 'flash'; it must be one of stream, eager"):
        attention_mass(model, IDS_BT, method="flash")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='use method="stream"'):
        attention_mass(model, IDS_BT, weighting="value", method="eager")


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([1, 2], None, r"integers \(B, T\)"),
        ([[]], None, r"integers \(B, T\)"),
        ([[1.0]], None, r"integers \(B, T\)"),
        ([[1, VOCABULARY]], None, "the vocabulary has 97 tokens"),
        ([[1, -1]], None, "ids run from -1"),
        ([[1, 2]], [[1]], "must hold 0 and 1 in the shape"),
        ([[1, 2]], [[1, 2]], "must hold 0 and 1 in the shape"),
        ([[1, 2], [1, 2]], [[1, 1], [0, 0]], r"texts \[1\] are all padding"),
    ],
)
def test_bad_input(model: Any, ids: Any, mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention_mass(model, torch.tensor(ids), None if mask is None else torch.tensor(mask))


def test_weights_that_are_not_finite(model: Any) -> None:
    model.model.layers[0].self_attn.q_proj.weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="text 0: nan of 12, text 1: nan of 12"):
        attention_mass(model, IDS_BT)
