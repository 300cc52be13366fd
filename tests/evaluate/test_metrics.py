"""The task metric, and evaluation of a policy against a hand-made loop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from rlft import SHEARConfig, SHEARTrainer
from rlft.evaluate.metrics import answer_match
from rlft.evaluate.policy import evaluate_policy, sample_completions
from tests.trainers.conftest import PROMPTS, grpo_arguments, parity, random_model  # noqa: F401  (fixtures)


@pytest.mark.parametrize(
    ("completion", "gold", "score"),
    [
        ("<think>1</think> 936", "936", 1.0),
        ("936", "936", 1.0),
        ("<think>936</think>", "936", 0.0),
        ("<think>936</think>935", "936", 0.0),
        ("1,234", "1234", 1.0),
        ("The  Answer.", "the answer", 1.0),
        ("9 3 6", "936", 0.0),
        ([{"role": "assistant", "content": "x</think>7"}], "7", 1.0),
    ],
)
def test_answer_match(completion: Any, gold: str, score: float) -> None:
    assert answer_match([completion], [gold]) == [score]


@pytest.fixture
def trainer(random_model: Path, grpo_arguments: Any) -> SHEARTrainer:  # noqa: F811
    rows = Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS * 4])
    return SHEARTrainer(str(random_model), parity, SHEARConfig(**grpo_arguments()), train_dataset=rows)


def test_greedy_completions_equal_stepwise_argmax(trainer: SHEARTrainer) -> None:
    """Left padding and batching must not change what each prompt gets."""
    trainer.args.per_device_eval_batch_size = 3
    completions = sample_completions(trainer, PROMPTS, temperature=0.0)
    tokenizer, model = trainer.processing_class, trainer.model.eval()
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        ids = tokenizer(prompt).input_ids
        start = len(ids)
        while len(ids) - start < 12 and ids[-1] != tokenizer.eos_token_id:
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert completion == tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_sampling_leaves_the_run_s_random_state_alone(trainer: SHEARTrainer) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = sample_completions(trainer, PROMPTS, temperature=1.0, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert first == sample_completions(trainer, PROMPTS, temperature=1.0, seed=1)
    assert first != sample_completions(trainer, PROMPTS, temperature=1.0, seed=2)


def test_metric_gets_the_columns_of_its_rows(trainer: SHEARTrainer) -> None:
    rows = [{"prompt": prompt, "answer": str(i)} for i, prompt in enumerate(PROMPTS)]

    def metric(completions: list[str], prompts: list[str], answer: list[str], **_: Any) -> list[float]:
        assert prompts == PROMPTS
        return [float(value) for value in answer]

    assert evaluate_policy(trainer, rows, metric, temperature=0.0) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="--eval_rows"):
        evaluate_policy(trainer, [], metric, temperature=0.0)


def test_rows_without_a_verdict_are_left_out(trainer: SHEARTrainer) -> None:
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    assert evaluate_policy(trainer, rows, lambda **_: [1.0, None, 0.0, None], temperature=0.0) == 0.5
    with pytest.raises(ValueError, match="None for all 4 held-out rows"):
        evaluate_policy(trainer, rows, lambda **_: [None] * 4, temperature=0.0)


def test_the_model_s_own_sampling_defaults_have_no_say(trainer: SHEARTrainer) -> None:
    """A shipped top_p or repetition penalty would make `plain sampling` something else."""
    plain = [sample_completions(trainer, PROMPTS, temperature=t, seed=3) for t in (1.0, 0.0)]
    trainer.model.generation_config.update(top_p=1e-6, repetition_penalty=50.0, top_k=1)
    assert [sample_completions(trainer, PROMPTS, temperature=t, seed=3) for t in (1.0, 0.0)] == plain
    assert trainer.model.generation_config.top_k == 1
