"""A run folder as a recipe leaves it, of a random model, without training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rlft.evaluate.metrics import answer_match
from rlft.record.folder import record_dir, save_config
from rlft.record.provenance import save_provenance
from rlft.record.rollouts import RolloutLog, RolloutRow
from rlft.tiny.tokenizer import char_tokenizer
from tests.shared import write_model

CONFIGURATION: dict[str, Any] = {
    "recipe": {
        "reward_funcs": ["exact_match"],
        "eval_metric": "answer_match",
        "eval_rows": 8,
        "prompt_column": "prompt",
        "answer_column": "answer",
        "system_prompt": None,
    },
    "data": {"dataset_name": "tiny/addition-1", "dataset_config": None}
    | {"dataset_train_split": "train", "dataset_test_split": "test"},
    "model": {"model_name_or_path": "tiny/addition-1", "model_revision": "main", "dtype": "float32"}
    | {"lora_r": 4, "lora_alpha": 8, "load_in_4bit": False, "load_in_8bit": False},
    "training": {"seed": 3, "credit": "shear", "temperature": 1.0, "max_completion_length": 6}
    | {"chat_template_kwargs": None},
}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random one-layer model."""
    return write_model(tmp_path_factory.mktemp("base"), layers=1)


@pytest.fixture(scope="session")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes the folder of an adapter whose B matrices are as large as asked for."""
    from transformers import AutoModelForCausalLM

    def make(size: float = 0.1) -> Path:
        folder = tmp_path_factory.mktemp("adapter")
        torch.manual_seed(0)
        lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=size)
        model.save_pretrained(folder)
        char_tokenizer().save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def as_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run folder of what lies in another folder; the configuration's parts can be changed."""

    def make(models: Path, **changes: dict[str, Any]) -> Path:
        run = tmp_path / "run"
        run.mkdir()
        for path in models.iterdir():
            (run / path.name).write_bytes(path.read_bytes())
        save_config(run, {part: said | changes.get(part, {}) for part, said in CONFIGURATION.items()})
        rows = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+3=", "answer": "5"}]
        save_provenance(run, bases={}, rows={"train": rows}, functions=[answer_match])
        ids = char_tokenizer()("2<|im_end|>")["input_ids"]
        RolloutLog(record_dir(run), 0).append(
            [
                RolloutRow(0, 0, n, row["prompt"], "2", ids, {"exact_match": 1.0}, 1.0, 0.5, [1.0] * len(ids), "stop")
                for n, row in enumerate(rows)
            ]
        )
        logged = {"accuracy/before_greedy": 0.25, "accuracy/after_greedy": 0.75}
        (run / "record" / "metrics.jsonl").write_text(json.dumps({"step": 0, "time": 1.0, **logged}) + "\n")
        return run

    return make
