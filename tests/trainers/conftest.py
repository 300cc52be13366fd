"""A random tiny model on disk, and short GRPO runs on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from rlft.trainers.round_models import RoundModels
from tests.shared import ON_CPU, write_model

PROMPTS = ["1+1=", "22+3=", "4+56=", "7+8="]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Qwen3 with its tokenizer."""
    return write_model(tmp_path_factory.mktemp("random-model"))


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a model is loaded."""

    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    monkeypatch.setattr(RoundModels, "_base", load)


def parity(completions: list[str], **_: Any) -> list[float]:
    """A reward that a random model wins about half of the time."""
    return [float(sum(map(ord, text)) % 2) for text in completions]


@pytest.fixture
def grpo_arguments(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Arguments of a short run on one CPU: 4 prompts x 4 completions a step."""

    def arguments(**changes: Any) -> dict[str, Any]:
        return {
            "output_dir": str(tmp_path / "run"),
            **ON_CPU,
            "max_steps": 2,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 16,
            "num_generations": 4,
            "max_completion_length": 12,
        } | changes

    return arguments


@pytest.fixture
def prompts() -> Dataset:
    return Dataset.from_list([{"prompt": prompt, "answer": "2"} for prompt in PROMPTS * 16])
