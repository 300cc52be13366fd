"""Options of a DRO run that cannot be meant, have no effect or fit no sampler are refused before a model is loaded."""

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from rlft.trainers import sampler_options
from tests.trainers.dro_runs import config, save_model, trainer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": 1}, "candidates=1 are fewer than a list's list_size=2"),
        ({"freeze_selector": True, "freeze_generator": True}, "leave nothing to train"),
        ({"sampler": "continuous"}, "constrained=True needs sampler=transformers, not 'continuous'"),
        ({"dedup": "sum"}, "dedup='sum' is none of count, none, support"),
        ({"selector_objective": "ppo"}, "selector_objective='ppo' is none of em, grpo"),
        ({"grpo_reward": "f1"}, "grpo_reward='f1' is none of"),
        ({"max_dropped": 1.5}, r"max_dropped=1.5 must be in \[0, 1\]"),
        ({"invalid_lists": "keep"}, "invalid is drop, pad or resample"),
        ({"list_instruction": "rank {question}"}, "must hold {passages}"),
        ({"answer_instruction": "{passages}"}, "must hold {question}"),
        ({"passage_format": "{text}"}, "must hold {n}"),
        ({"list_size": 0}, "must be at least 1"),
        ({"max_length": 100}, "max_length=100 would cut rows"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search_coef": 2.0}, "search_coef=2.0 would have no effect: the selector learns by itself"),
        ({"answer_coef": 0.5}, "answer_coef=0.5 would have no effect: the generator learns by itself"),
        ({"grpo_reward": "exact_match"}, "grpo_reward='exact_match' would have no effect: selector_objective is em"),
        (
            {"selector_objective": "grpo", "baseline": "group"},
            "baseline='group' would have no effect: selector_objective=grpo has advantages of its own",
        ),
        (
            {"selector_objective": "grpo", "freeze_selector": True},
            "selector_objective='grpo' would have no effect: freeze_selector leaves it untrained",
        ),
    ],
)
def test_options_without_effect_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_options_that_have_an_effect_are_taken(tmp_path: Path) -> None:
    assert config(tmp_path).token_reduction == "sum"
    config(tmp_path, selector_objective="grpo", grpo_reward="exact_match", freeze_generator=True)
    config(tmp_path, baseline="group", freeze_selector=True)


SERVER = {"sampler": "server", "sampler_url": "http://127.0.0.1:9/v1", "constrained": False}
VLLM = {"sampler": "vllm", "constrained": False}
WHOLE = LoraConfig(target_modules="all-linear", modules_to_save=["lm_head"])


@pytest.mark.usefixtures("no_model")
def test_samplers_that_cannot_hold_the_pair_are_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_options, "find_spec", lambda name: name)  # as if vllm were installed
    other = str(save_model(tmp_path / "other", seed=5))
    with pytest.raises(ValueError, match="sampler='server' serves one base, and the selector has another"):
        trainer(tmp_path, base, selector_model=other, **SERVER)
    with pytest.raises(ValueError, match=r"modules_to_save=\['lm_head'\] cannot be handed to vLLM from two adapters"):
        trainer(tmp_path, base, peft_config=WHOLE, **VLLM)
    trainer(tmp_path, base, **SERVER)
    trainer(tmp_path, base, **VLLM)
    trainer(tmp_path, base, peft_config=WHOLE, selector_model=other, **VLLM)
    trainer(tmp_path, base, peft_config=WHOLE)
