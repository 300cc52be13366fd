"""One prompt for all: training, held-out evaluation, pairs and drift checks read the same ids, whatever is set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoTokenizer
from transformers.generation import GenerationMixin

from rlft import PrLMConfig, PrLMTrainer
from rlft.data.profile_prompt import ProfilePrompt
from rlft.data.prompt_templates import PromptTemplates
from rlft.evaluate.policy import sample_completions
from rlft.reward_models.answers import policy_answers
from rlft.reward_models.pairs import Ask
from rlft.rollouts.policy import Draw, Generation
from tests.trainers.prlm_runs import user_rows

SWITCH = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
SETTINGS: list[dict[str, Any] | None] = [None, {"enable_thinking": False}]


class Listening:
    """A policy that keeps what it is asked and says nothing."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def generate(self, draws: list[Draw], sampling: Any) -> list[Generation]:
        self.asked += [list(draw.prompt_ids) for draw in draws]
        return [Generation(ids=[5], logprobs=[0.0], stopped=False) for _ in draws]


@pytest.mark.parametrize("settings", SETTINGS, ids=["none", "no thinking"])
def test_training_evaluation_and_pairs_read_the_same_ids(
    settings: dict[str, Any] | None,
    random_model: Path,
    grpo_arguments: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n{%", f"assistant\n{SWITCH}{{%")
    prompt = ProfilePrompt(PromptTemplates(), tokenizer, system=None, template_kwargs=settings)
    rows = user_rows(4)
    messages = [prompt.messages(row, row["profile"]) for row in rows]
    config = PrLMConfig(
        personalization_weight=0, chat_template_kwargs=settings, **grpo_arguments(max_steps=1, max_completion_length=2)
    )
    data = [
        {"prompt": turns, "answer": row["gold"], "query": row["query"]}
        for turns, row in zip(messages, rows, strict=True)
    ]
    trainer = PrLMTrainer(
        str(random_model), args=config, train_dataset=Dataset.from_list(data), processing_class=tokenizer
    )
    read: list[list[int]] = []
    generate = GenerationMixin.generate

    def listening(model: Any, *args: Any, input_ids: Any, attention_mask: Any, **kwargs: Any) -> Any:
        read.extend(ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True))
        return generate(model, *args, input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(GenerationMixin, "generate", listening)
    trainer.train()
    trained, policy = {tuple(ids) for ids in read}, Listening()
    read.clear()
    sample_completions(trainer, messages, temperature=0.0)
    sample = policy_answers(
        policy, tokenizer, prompt.messages, lambda text: text, template_kwargs=prompt.template_kwargs, max_new_tokens=2
    )
    sample([Ask(row, row["profile"], "own") for row in rows])
    assert len(trained) == 4
    assert trained == {tuple(ids) for ids in read} == {tuple(ids) for ids in policy.asked}
    closes = [tokenizer.decode(ids).endswith("<think>\n\n</think>\n\n") for ids in trained]
    assert closes == [settings is not None] * 4
