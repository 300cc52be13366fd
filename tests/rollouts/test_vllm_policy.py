"""What a vLLM engine is asked and what is made of its answers, with a stand-in that answers in vLLM's shapes."""

import contextlib
import inspect
import random
from types import SimpleNamespace
from typing import Any

import pytest

from rlft.compat.vllm import vllm_engine
from rlft.rollouts.policy import GREEDY, Draw, Sampling
from rlft.rollouts.vllm_policy import VLLMPolicy
from tests.rollouts.vllm_stand_in import SamplingParams
from tests.rollouts.vllm_stand_in import vllm as vllm

pytestmark = pytest.mark.usefixtures("vllm")
VOCABULARY, STOPS = 50, frozenset({7, 9})


class Engine:
    """A `vllm.LLM` that draws uniform tokens from each request's seed and stops as vLLM does."""

    def __init__(self, logprobs_mode: str = "processed_logprobs", max_model_len: int = 64) -> None:
        config = SimpleNamespace(
            logprobs_mode=logprobs_mode, max_model_len=max_model_len, get_vocab_size=lambda: VOCABULARY
        )
        self.llm_engine = SimpleNamespace(model_config=config)
        self.asked: list[Any] = []
        self.heard: list[str] = []

    def generate(self, prompts: list[Any], sampling_params: list[SamplingParams], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        self.asked += zip(prompts, sampling_params, strict=True)
        return [
            SimpleNamespace(prompt_token_ids=prompt["prompt_token_ids"], outputs=[self._run(params)])
            for prompt, params in zip(prompts, sampling_params, strict=True)
        ]

    def _run(self, params: SamplingParams) -> Any:
        rng = random.Random(params.seed)
        ids: list[int] = []
        while len(ids) < (params.max_tokens or 0):
            ids.append(rng.randrange(VOCABULARY))
            if ids[-1] in (params.stop_token_ids or ()):
                break
        stopped = ids[-1] in (params.stop_token_ids or ())
        return SimpleNamespace(
            token_ids=tuple(ids),
            logprobs=[{token: SimpleNamespace(logprob=-float(token), rank=1, decoded_token=None)} for token in ids],
            finish_reason="stop" if stopped else "length",
            stop_reason=ids[-1] if stopped else None,
        )

    def wake_up(self, tags: list[str]) -> None:
        self.heard.append(f"wake {','.join(tags)}")

    def sleep(self, level: int) -> None:
        self.heard.append(f"sleep {level}")


DRAWS = [Draw([1, 2, 3 + index % 4], seed=index, max_new_tokens=1 + index % 20) for index in range(40)]


def test_every_draw_is_a_request_of_its_own() -> None:
    engine = Engine()
    VLLMPolicy(engine, STOPS).generate([Draw([3, 4], 2**62, 6), Draw([5], 1, 2)], Sampling(0.7))
    shared = {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "stop_token_ids": [7, 9], "ignore_eos": True}
    shared |= {"logprobs": 0, "detokenize": False}
    assert engine.asked == [
        ({"prompt_token_ids": [3, 4]}, SamplingParams(seed=2**62, max_tokens=6, **shared)),
        ({"prompt_token_ids": [5]}, SamplingParams(seed=1, max_tokens=2, **shared)),
    ]


def test_a_penalty_goes_with_the_request() -> None:
    engine = Engine("raw_logprobs")
    VLLMPolicy(engine, STOPS).generate(DRAWS[:1], Sampling(repetition_penalty=1.1))
    assert engine.asked[0][1].repetition_penalty == 1.1


def test_ids_logprobs_and_ending() -> None:
    found = VLLMPolicy(Engine(), STOPS).generate(DRAWS, Sampling())
    assert {got.stopped for got in found} == {True, False}
    for draw, got in zip(DRAWS, found, strict=True):
        assert got.stopped == (got.ids[-1] in STOPS)
        assert got.stopped or len(got.ids) == draw.max_new_tokens
        assert got.logprobs == [-float(token) for token in got.ids]
    alone = [VLLMPolicy(Engine(), STOPS).generate([draw], Sampling())[0] for draw in DRAWS]
    assert alone == found


def test_no_draws_no_requests() -> None:
    engine = Engine()
    assert VLLMPolicy(engine, STOPS).generate([], Sampling()) == []
    assert not engine.asked


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (Draw([], 0, 4), "without tokens"),
        (Draw([1] * 60, 0, 5), "60 prompt tokens and max_new_tokens=5 make 65.*positions for 64"),
        (Draw([VOCABULARY], 0, 4), "knows 0 to 49"),
    ],
)
def test_bad_draws_are_refused_before_anything_is_asked(draw: Draw, message: str) -> None:
    engine = Engine()
    with pytest.raises(ValueError, match=message):
        VLLMPolicy(engine, STOPS).generate([DRAWS[0], draw], Sampling())
    assert not engine.asked


@pytest.mark.parametrize(
    ("mode", "sampling", "message"),
    [
        ("processed_logprobs", Sampling(0.7, top_p=0.9), "after top-p and top-k"),
        ("raw_logprobs", Sampling(0.7), "before temperature"),
        ("processed_logprobs", Sampling(0.005), "at least 0.01"),
    ],
)
def test_samplings_without_the_promised_logprobs(mode: str, sampling: Sampling, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VLLMPolicy(Engine(mode), STOPS).generate(DRAWS[:1], sampling)


@pytest.mark.parametrize(
    ("mode", "sampling"),
    [("processed_logprobs", Sampling(0.7)), ("processed_logprobs", GREEDY), ("raw_logprobs", Sampling(top_p=0.9))],
)
def test_samplings_with_the_promised_logprobs(mode: str, sampling: Sampling) -> None:
    assert VLLMPolicy(Engine(mode), STOPS).generate(DRAWS[:1], sampling)


@pytest.mark.parametrize(
    ("mode", "sampling"), [("processed_logprobs", Sampling(0.7, top_p=0.9)), ("raw_logprobs", Sampling(0.7))]
)
def test_the_engines_own_logprobs_are_given_where_they_are_wanted(mode: str, sampling: Sampling) -> None:
    (got,) = VLLMPolicy(Engine(mode), STOPS, own_logprobs=True).generate(DRAWS[:1], sampling)
    assert got.logprobs == [-float(token) for token in got.ids]
    with pytest.raises(ValueError, match="at least 0.01"):
        VLLMPolicy(Engine(mode), STOPS, own_logprobs=True).generate(DRAWS[:1], Sampling(0.005))


def test_an_engine_that_gives_logits_is_refused() -> None:
    with pytest.raises(ValueError, match="logprobs_mode='raw_logits'.*processed_logprobs"):
        VLLMPolicy(Engine("raw_logits"), STOPS)


def test_an_aborted_request_is_no_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    aborted = SimpleNamespace(token_ids=[1], logprobs=[{1: SimpleNamespace(logprob=-1.0)}], finish_reason="abort")
    monkeypatch.setattr(Engine, "_run", lambda self, params: aborted)
    with pytest.raises(RuntimeError, match=r"after 1 of 5 tokens, at \[1\]"):
        VLLMPolicy(Engine(), STOPS).generate([Draw([1], 0, 5)], Sampling())


class Generation:
    """TRL's `VLLMGeneration` as far as `vllm_engine` uses it."""

    def __init__(self, mode: str = "colocate", tensor_parallel_size: int = 1, enable_sleep_mode: bool = False) -> None:
        self.mode, self.tensor_parallel_size, self.enable_sleep_mode = mode, tensor_parallel_size, enable_sleep_mode
        self.llm = Engine()
        self._llm_weights_sleeping = enable_sleep_mode

    def sync_weights(self) -> None:
        self.llm.heard.append("sync")
        self._llm_weights_sleeping = False


def test_the_engine_gets_the_weights_of_the_trainer() -> None:
    generation = Generation()
    with vllm_engine(generation) as llm:
        assert llm is generation.llm
    with vllm_engine(generation, sync=False):
        pass
    assert generation.llm.heard == ["sync"]


def test_a_sleeping_engine_is_woken_and_put_to_sleep_again() -> None:
    generation = Generation(enable_sleep_mode=True)
    with contextlib.suppress(KeyError), vllm_engine(generation, sync=False):
        assert generation.llm.heard == ["sync", "wake kv_cache"]
        assert not generation._llm_weights_sleeping
        raise KeyError
    assert generation.llm.heard == ["sync", "wake kv_cache", "sleep 2"]
    assert generation._llm_weights_sleeping


def test_weights_that_trl_has_just_pushed_are_not_pushed_again() -> None:
    generation = Generation(enable_sleep_mode=True)
    generation.sync_weights()
    with vllm_engine(generation, sync=False):
        pass
    with vllm_engine(generation, sync=False):
        pass
    assert generation.llm.heard == ["sync", "wake kv_cache", "sleep 2"] * 2


@pytest.mark.parametrize("settings", [{"mode": "server"}, {"tensor_parallel_size": 2}])
def test_an_engine_that_is_elsewhere_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="vllm_mode=.*ServerPolicy"), vllm_engine(Generation(**settings)):
        pass


def test_what_is_used_of_trl_exists() -> None:
    from trl.generation.vllm_generation import VLLMGeneration

    assert {"mode", "tensor_parallel_size", "enable_sleep_mode"} <= set(inspect.signature(VLLMGeneration).parameters)
    source = inspect.getsource(VLLMGeneration)
    assert "self._llm_weights_sleeping = True" in source
    assert 'logprobs_mode="processed_logprobs"' in source
    assert callable(VLLMGeneration.sync_weights)
