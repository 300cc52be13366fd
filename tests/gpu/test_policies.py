"""On a GPU: batched and continuous sampling give what a plain forward says, in fp32 and in bf16."""

import random

import pytest
import torch
from transformers import Qwen3ForCausalLM

from rlft.rollouts.continuous import ContinuousPolicy
from rlft.rollouts.policy import GREEDY, Draw, Policy, Sampling
from rlft.rollouts.transformers_policy import TransformersPolicy
from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

TOKENIZER = char_tokenizer()
STOPS = frozenset(range(30))


def draws(count: int = 100) -> list[Draw]:
    rng = random.Random(0)
    prompts = [[rng.randrange(len(TOKENIZER)) for _ in range(rng.randint(1, 40))] for _ in range(count // 2)]
    return [Draw(rng.choice(prompts), index, rng.randint(1, 12)) for index in range(count)]


def on_gpu(dtype: torch.dtype) -> Qwen3ForCausalLM:
    return tiny_model(TOKENIZER, hidden=64, layers=2).to("cuda", dtype).eval()


def check(model: Qwen3ForCausalLM, policy: Policy, sampling: Sampling, tolerance: float) -> None:
    wanted = draws()
    for draw, got in zip(wanted, policy.generate(wanted, sampling), strict=True):
        assert not STOPS & set(got.ids[:-1])
        assert got.stopped == (got.ids[-1] in STOPS)
        assert got.stopped or len(got.ids) == draw.max_new_tokens
        with torch.no_grad():
            logits_LV = model(input_ids=torch.tensor([draw.prompt_ids + got.ids], device="cuda")).logits[0].double()
        logprobs_TV = (logits_LV / (sampling.temperature or 1.0))[len(draw.prompt_ids) - 1 : -1].log_softmax(-1)
        expected = logprobs_TV.gather(1, torch.tensor(got.ids, device="cuda")[:, None])[:, 0].tolist()
        assert got.logprobs == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, top_p=0.9, top_k=20), GREEDY])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.25)])
def test_batched(dtype: torch.dtype, tolerance: float, sampling: Sampling) -> None:
    model = on_gpu(dtype)
    check(model, TransformersPolicy(model, STOPS, TOKENIZER.pad_token_id), sampling, tolerance)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7), GREEDY])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.25)])
def test_continuous(dtype: torch.dtype, tolerance: float, sampling: Sampling) -> None:
    model = on_gpu(dtype)
    check(model, ContinuousPolicy(model, STOPS, max_memory_percent=0.1), sampling, tolerance)


def test_batch_size_changes_nothing() -> None:
    model = on_gpu(torch.float32)
    alone, many = (
        TransformersPolicy(model, STOPS, TOKENIZER.pad_token_id, batch_size=size).generate(draws(), Sampling())
        for size in (1, 64)
    )
    assert [got.ids for got in alone] == [got.ids for got in many]
