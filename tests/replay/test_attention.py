"""Attention mass against eager maps, against numpy, and under what must not change it."""

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from rlft.replay import columns
from rlft.replay.attention import attention_mass
from rlft.replay.columns import softmax_columns
from rlft.replay.value_sizes import value_sizes
from tests.replay.attention_models import EAGER_ONLY, STREAMED, WINDOW, ids_of, model_of

TOKENS = 23
MASKS = {
    "unpadded": [[1] * TOKENS] * 2,
    "left": [[0] * 5 + [1] * 18, [1] * TOKENS],
    "right": [[1] * 19 + [0] * 4, [1] * 11 + [0] * 12],
}


@pytest.fixture(params=STREAMED)
def model(request: pytest.FixtureRequest) -> Any:
    return model_of(STREAMED[request.param]())


@pytest.mark.parametrize("side", MASKS)
def test_streaming_equals_eager(model: Any, side: str) -> None:
    ids_BT, mask_BT = ids_of(2, TOKENS), torch.tensor(MASKS[side])
    stream_BT = attention_mass(model, ids_BT, mask_BT)
    assert close(stream_BT, attention_mass(model, ids_BT, mask_BT, method="eager"))
    assert close(stream_BT.sum(1), mask_BT.sum(1).float())
    assert stream_BT.dtype == torch.float32
    assert (stream_BT[mask_BT == 0] == 0).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("weighting", ["mean", "value"])
def test_padding_changes_nothing(model: Any, side: str, weighting: Any) -> None:
    ids_BT, mask_BT = ids_of(2, TOKENS), torch.tensor(MASKS[side])
    padded_BT = attention_mass(model, ids_BT, mask_BT, weighting=weighting)
    for ids_T, mask_T, padded_T in zip(ids_BT, mask_BT.bool(), padded_BT, strict=True):
        assert close(padded_T[mask_T], attention_mass(model, ids_T[mask_T][None], weighting=weighting)[0])


def test_blocks_of_queries_change_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids_BT, mask_BT = ids_of(2, TOKENS), torch.tensor(MASKS["left"])
    whole = [attention_mass(model, ids_BT, mask_BT, weighting=weighting) for weighting in ("mean", "value")]
    monkeypatch.setattr(columns, "_CPU_SCORES", 2 * 4 * TOKENS * 3)
    for weighting, mass_BT in zip(("mean", "value"), whole, strict=True):
        assert close(attention_mass(model, ids_BT, mask_BT, weighting=weighting), mass_BT)


@pytest.mark.parametrize("name", EAGER_ONLY)
@pytest.mark.filterwarnings("ignore:.*layers that have attention maps")
def test_eager_maps_of_models_that_streaming_refuses(name: str) -> None:
    model, ids_BT, mask_BT = model_of(EAGER_ONLY[name]()), ids_of(2, TOKENS), torch.tensor(MASKS["right"])
    mass_BT = attention_mass(model, ids_BT, mask_BT, method="eager")
    with torch.no_grad():
        model.set_attn_implementation("eager")
        maps = model(input_ids=ids_BT[:1, :19], use_cache=False, output_attentions=True).attentions
    maps_LHTT = torch.cat([map_BHTT for map_BHTT in maps if map_BHTT is not None and map_BHTT.ndim == 4])
    # gpt-oss gives a part of every row to a sink that is no token.
    maps_LHTT = maps_LHTT / maps_LHTT.sum(-1, keepdim=True)
    assert close(mass_BT[0, :19], maps_LHTT.mean((0, 1)).sum(0))


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("sized", [False, True])
def test_columns_equal_numpy(window: int | None, sized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_CPU_SCORES", 4 * TOKENS * 6)
    draw = torch.Generator().manual_seed(1)
    query_BHTD, key_BKTD = (torch.randn(1, heads, TOKENS, 8, generator=draw) for heads in (4, 2))
    sizes_BHT = torch.rand(1, 4, TOKENS, generator=draw) if sized else None
    mask_TT = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    mask_TT = mask_TT if window is None else mask_TT.triu(1 - window)
    valid_BT = torch.ones(1, TOKENS, dtype=torch.bool)
    mask_B1TT = None if window is None else mask_TT[None, None]
    found_BT = softmax_columns(query_BHTD, key_BKTD, mask_B1TT, 0.7, valid_BT, sizes_BHT)
    expected_T = np.zeros(TOKENS)
    for head in range(4):
        scores_TT = 0.7 * query_BHTD[0, head].double().numpy() @ key_BKTD[0, head // 2].double().numpy().T
        map_TT = np.exp(scores_TT) * mask_TT.numpy()
        map_TT = map_TT if sizes_BHT is None else map_TT * sizes_BHT[0, head].numpy()
        expected_T += (map_TT / map_TT.sum(1, keepdims=True)).sum(0) / 4
    np.testing.assert_allclose(found_BT[0].numpy(), expected_T, rtol=1e-5)


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "opt", "mistral_window"])
def test_value_weighting_equals_vectors_written_out(name: str) -> None:
    model, ids_BT = model_of(STREAMED[name]()), ids_of(1, TOKENS)
    expected_T = np.mean([written_out(*taken) for taken in taken_from(model, ids_BT)], 0)
    found_T = attention_mass(model, ids_BT, weighting="value")[0]
    np.testing.assert_allclose(found_T.numpy(), expected_T, rtol=1e-5)
    assert not close(found_T, attention_mass(model, ids_BT)[0], 0.01)


def test_values_of_one_size_weigh_nothing() -> None:
    model, ids_BT = model_of(STREAMED["opt"]()), ids_of(2, TOKENS)
    for layer in model.model.decoder.layers:
        nn.init.zeros_(layer.self_attn.v_proj.weight)
        nn.init.ones_(layer.self_attn.v_proj.bias)
    assert close(attention_mass(model, ids_BT, weighting="value"), attention_mass(model, ids_BT))


def test_a_bias_does_not_blur_sizes_in_half_precision() -> None:
    torch.manual_seed(0)
    projection, value_BKTD = nn.Linear(32, 32).bfloat16(), torch.randn(1, 2, 5, 8).bfloat16()
    nn.init.normal_(projection.weight, std=0.02)
    nn.init.normal_(projection.bias)
    vectors_BHTC = value_BKTD.float().repeat_interleave(2, 1) @ projection.weight.float().T.unflatten(0, (4, 8))
    assert torch.allclose(value_sizes(value_BKTD, projection, 4), vectors_BHTC.norm(dim=-1), rtol=5e-3)


def test_a_planted_column_takes_its_weight() -> None:
    planted, share = 9, 0.75
    query_BHTD, key_BKTD = torch.zeros(1, 4, TOKENS, 8), torch.zeros(1, 2, TOKENS, 8)
    # Against i other keys with score 0 a score of log(i share / (1 - share)) takes the share.
    query_BHTD[..., 0] = (torch.arange(TOKENS).clamp_min(1) * share / (1 - share)).log()
    key_BKTD[:, :, planted, 0] = 1
    mass_T = softmax_columns(query_BHTD, key_BKTD, None, 1.0, torch.ones(1, TOKENS, dtype=torch.bool), None)[0]
    assert mass_T.argmax() == planted
    assert close(mass_T[planted], torch.tensor(share * (TOKENS - planted)))


def test_uniform_attention_has_its_closed_form() -> None:
    model, ids_BT = model_of(STREAMED["llama"]()), ids_of(1, TOKENS)
    for layer in model.model.layers:
        nn.init.zeros_(layer.self_attn.q_proj.weight)
    expected_T = (1 / torch.arange(1, TOKENS + 1)).flip(0).cumsum(0).flip(0)
    assert close(attention_mass(model, ids_BT)[0], expected_T)


def test_a_window_reaches_no_further() -> None:
    model, ids_BT = model_of(STREAMED["mistral_window"]()), ids_of(1, TOKENS)
    assert (attention_mass(model, ids_BT) <= WINDOW).all()


def test_half_precision_is_as_exact_as_its_queries_and_keys() -> None:
    model, ids_BT = model_of(STREAMED["qwen3"]()).bfloat16(), ids_of(1, TOKENS)
    maps = [whole_map(*taken[:2], taken[4]).mean(0).sum(0) for taken in taken_from(model, ids_BT)]
    np.testing.assert_allclose(attention_mass(model, ids_BT)[0].numpy(), np.mean(maps, 0), rtol=1e-5)
    assert close(attention_mass(model, ids_BT), attention_mass(model, ids_BT, method="eager"), 0.1)


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
@pytest.mark.parametrize("weighting", ["mean", "value"])
def test_adapters_count(name: str, weighting: Any) -> None:
    model, ids_BT = model_of(STREAMED[name]()), ids_of(2, TOKENS)
    plain_BT = attention_mass(model, ids_BT, weighting=weighting)
    targets = ["c_attn", "c_proj"] if name == "gpt2" else ["q_proj", "v_proj", "o_proj"]
    lora = LoraConfig(
        r=4, lora_dropout=0.5, init_lora_weights=False, target_modules=targets, fan_in_fan_out=name == "gpt2"
    )
    adapted = get_peft_model(model, lora)
    adapted.train()
    found_BT = attention_mass(adapted, ids_BT, weighting=weighting)
    assert adapted.training
    assert not close(found_BT, plain_BT, 1e-3)
    assert close(found_BT, attention_mass(adapted.merge_and_unload(), ids_BT, weighting=weighting), 1e-4)


@pytest.mark.parametrize("method", ["stream", "eager"])
@pytest.mark.parametrize("own", ["sdpa", "eager"])
def test_the_model_is_left_as_it_was(method: Any, own: str) -> None:
    model, ids_BT = model_of(STREAMED["gpt2"]()), ids_of(1, TOKENS)
    model.set_attn_implementation(own)
    model.train()
    model.transformer.h[1].attn.eval()
    attention_mass(model, ids_BT, method=method)  # transformers installs hooks of its own at the first call
    before = [
        (module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()
    ]
    dropped_BT = attention_mass(model, ids_BT, method=method)
    after = [
        (module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()
    ]
    assert after == before
    assert model.config._attn_implementation == own
    assert all(weight.grad is None for weight in model.parameters())
    assert close(dropped_BT, attention_mass(model.eval(), ids_BT, method=method))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return torch.allclose(found.float(), expected.float(), rtol=tolerance, atol=tolerance)


def taken_from(model: Any, ids_BT: Tensor) -> list[tuple[np.ndarray, ...]]:
    """Of each layer, of one text: queries, repeated keys and values (H, T, D), projection (H, D, C), allowed (T, T)."""
    layers = []

    def take(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **known: Any) -> Any:
        heads = query.shape[1]
        keys, values = (part[0].repeat_interleave(heads // part.shape[1], 0) for part in (key, value))
        weights = [getattr(module, name).weight for name in ("o_proj", "c_proj", "out_proj") if hasattr(module, name)]
        weight_IC = weights[0] if hasattr(module, "c_proj") else weights[0].T
        mask_TT = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril() if mask is None else mask[0, 0]
        parts = (query[0].double() * known["scaling"], keys, values, weight_IC.unflatten(0, (heads, -1)), mask_TT)
        layers.append(tuple(part.detach().double().numpy() for part in parts))
        return AttentionInterface()["sdpa"](module, query, key, value, mask, **known)

    AttentionInterface.register("test_takes", take)
    AttentionMaskInterface.register("test_takes", AttentionMaskInterface()["sdpa"])
    model.set_attn_implementation("test_takes")
    with torch.no_grad():
        model(input_ids=ids_BT, use_cache=False)
    model.set_attn_implementation("sdpa")
    return layers


def whole_map(query_HTD: np.ndarray, key_HTD: np.ndarray, mask_TT: np.ndarray) -> np.ndarray:
    map_HTT = np.exp(query_HTD @ key_HTD.transpose(0, 2, 1)) * mask_TT
    return map_HTT / map_HTT.sum(-1, keepdims=True)


def written_out(
    query_HTD: np.ndarray, key_HTD: np.ndarray, value_HTD: np.ndarray, weight_HDC: np.ndarray, mask_TT: np.ndarray
) -> np.ndarray:
    """Mass of one layer (T,) from every A_ij W_O^h v_j."""
    vectors_HTC = value_HTD @ weight_HDC
    map_HTT = whole_map(query_HTD, key_HTD, mask_TT)
    norms_HTT = np.linalg.norm(map_HTT[..., None] * vectors_HTC[:, None], axis=-1)
    return (norms_HTT / norms_HTT.sum(-1, keepdims=True)).mean(0).sum(0)
