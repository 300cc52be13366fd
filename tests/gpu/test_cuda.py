"""On a GPU: the same weights as on the CPU, and whole runs in bf16 with LoRA, checkpointing and both tap regimes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from rlft import SHEARConfig, SHEARTrainer
from rlft.credit import shear_weights
from rlft.credit.options import DISTANCES
from rlft.credit.spans import spans
from rlft.credit.transport import nearest_spans
from rlft.evaluate.metrics import answer_match
from rlft.evaluate.policy import evaluate_policy
from rlft.record.rollouts import read_rollouts
from rlft.trainers.trust import TrustCallback, check_adapter
from tests.trainers.conftest import PROMPTS, parity, random_model  # noqa: F401  (fixture)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("distance", DISTANCES)
def test_weights_equal_those_of_the_cpu(distance: str) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = [torch.randn(length, 64, generator=generator) for length in (40, 33, 51, 38)]
    options: dict[str, Any] = {"window": 10, "stride": 5, "distance": distance}
    on_cpu = shear_weights(hidden, [True, False, True, False], **options)
    on_gpu = shear_weights([h.cuda() for h in hidden], [True, False, True, False], **options)
    for left, right in zip(on_cpu, on_gpu, strict=True):
        assert torch.allclose(left, right, atol=1e-5)


@pytest.mark.parametrize("tf32", [False, True])
def test_certified_transport_holds_its_tolerance(tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batched solver, whatever the precision of matrix products elsewhere in the run."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", tf32)
    generator = torch.Generator().manual_seed(0)
    sides = [[torch.randn(length, 64, generator=generator) for length in lengths] for lengths in ((90, 73), (81, 98))]
    laid = [[spans(len(h), 20, 5) for h in side] for side in sides]
    exact = nearest_spans(*sides, *laid)
    near = nearest_spans(*([h.cuda() for h in side] for side in sides), *laid, tolerance=0.01)
    for one, other in zip(exact, near, strict=True):
        assert (other.lower_K <= one.minima_K + 1e-4).all()
        assert (other.minima_K >= one.minima_K - 1e-4).all()
        assert (other.minima_K <= other.lower_K / 0.99 + 1e-4).all()


@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize("credit", ["shear", "entropy", "constant"])
def test_bf16_lora_run_with_checkpointing(
    credit: str,
    iterations: int,
    random_model: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    config = SHEARConfig(
        output_dir=str(tmp_path / "run"),
        credit=credit,
        window=4,
        stride=2,
        bf16=True,
        gradient_checkpointing=True,
        num_iterations=iterations,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        max_steps=4,
        learning_rate=1e-2,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        num_generations=8,
        max_completion_length=12,
    )
    rows = [{"prompt": prompt, "answer": "2"} for prompt in PROMPTS * 16]
    trust = TrustCallback()
    trainer = SHEARTrainer(
        str(random_model),
        parity,
        config,
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[trust],
    )
    trainer.train()
    trainer.save_model(config.output_dir)
    assert trust.report["delta_norm"] > 0
    probe = trainer.processing_class("1+1=", return_tensors="pt").input_ids.cuda()
    assert check_adapter(trainer.model, Path(config.output_dir), probe) < 5e-2
    assert 0 <= evaluate_policy(trainer, rows[:6], answer_match, temperature=1.0) <= 1
    recorded = list(read_rollouts(Path(config.output_dir) / "record"))
    assert len(recorded) == 4 // iterations * 16
    if credit == "shear":
        assert any(len(set(row.credit)) > 1 for row in recorded)
