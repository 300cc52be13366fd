"""vLLM's names, for a machine without a GPU: an engine that samples a transformers model and sleeps as vLLM does."""

import dataclasses
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@dataclasses.dataclass
class SamplingParams:
    """The fields of vLLM's that matter here, with vLLM's defaults; an unknown field is an error, as there."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    detokenize: bool = True


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package `vllm` with what policies import of it."""
    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    module.SamplingParams = SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


class LLM:
    """A `vllm.LLM` over a transformers model: in two parts that sleep and wake, and without its weights after that."""

    made: "list[LLM]" = []

    def __init__(self, model: str, **settings: Any) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.settings, self.path, self.heard = settings, model, []
        self.network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.asleep: set[str] = set()
        config = SimpleNamespace(
            logprobs_mode=settings["logprobs_mode"],
            max_model_len=settings["max_model_len"] or self.network.config.max_position_embeddings,
            get_vocab_size=lambda: self.network.config.vocab_size,
        )
        runner = SimpleNamespace(model=SimpleNamespace(load_weights=self._load))
        executor = SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner))
        self.llm_engine = SimpleNamespace(model_config=config, model_executor=executor)
        LLM.made.append(self)

    def _load(self, weights: list[tuple[str, Any]]) -> None:
        assert "weights" not in self.asleep
        for name, values in weights:
            self.network.get_parameter(name).data.copy_(values)

    def reset_prefix_cache(self) -> None:
        self.heard.append("weights")

    def wake_up(self, tags: list[str]) -> None:
        self.asleep -= set(tags)

    def sleep(self, level: int) -> None:
        assert level == 2
        self.heard.append("sleep")
        self.asleep = {"weights", "kv_cache"}
        for parameter in self.network.parameters():
            parameter.data.fill_(float("nan"))

    def generate(self, prompts: list[Any], sampling_params: list[SamplingParams], use_tqdm: bool) -> list[Any]:
        from rlft.rollouts.policy import Draw, Sampling
        from rlft.rollouts.transformers_policy import TransformersPolicy

        assert not self.asleep
        self.heard.append("generate")
        first = sampling_params[0]
        policy = TransformersPolicy(self.network, frozenset(first.stop_token_ids or ()), pad_id=0)
        draws = [
            Draw(prompt["prompt_token_ids"], asked.seed or 0, asked.max_tokens or 1)
            for prompt, asked in zip(prompts, sampling_params, strict=True)
        ]
        found = policy.generate(draws, Sampling(first.temperature, first.top_p, first.top_k, first.repetition_penalty))
        return [SimpleNamespace(outputs=[_output(got.ids, got.logprobs)]) for got in found]


def _output(ids: list[int], logprobs: list[float]) -> Any:
    positions = [{token: SimpleNamespace(logprob=value)} for token, value in zip(ids, logprobs, strict=True)]
    return SimpleNamespace(token_ids=tuple(ids), logprobs=positions)


@pytest.fixture
def engines(vllm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[LLM]:
    """TRL's own code over stand-in engines; gives those that it starts, in order."""
    from trl.generation import vllm_generation

    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")  # TRL sets them, and they go again with this fixture
        monkeypatch.delenv(name)
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "LLM", LLM, raising=False)
    monkeypatch.setattr(LLM, "made", [])
    return LLM.made
