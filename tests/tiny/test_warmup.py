"""The warm-up cache: same content, same folder; anything else, another one; torn work never shows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlft.tiny import warmup
from rlft.tiny.addition import demonstrations
from rlft.tiny.model import tiny_model
from rlft.tiny.searcher import demonstrations as conversations
from rlft.tiny.word_tokenizer import word_tokenizer
from rlft.tiny.words import CITIES, FIRST_NAMES

SHORT = {**warmup.SCHEDULE, "max_steps": 1, "per_device_train_batch_size": 8}
UNCUT = {**SHORT, "max_length": None, "train_sampling_strategy": "sequential"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLFT_CACHE", str(tmp_path / "cache"))


def small(tokenizer: Any, seed: int) -> Any:
    return tiny_model(tokenizer, hidden=32, layers=1, kv_heads=4, feed_forward=64, seed=seed)


def larger(tokenizer: Any, seed: int) -> Any:
    return tiny_model(tokenizer, hidden=32, layers=2, seed=seed)


def test_second_call_finds_the_first_s_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = demonstrations(16, seed=0, digits=1)
    first = warmup.warm_up("task", rows, schedule=SHORT)
    assert AutoModelForCausalLM.from_pretrained(first).num_parameters() > 300_000
    monkeypatch.setattr(warmup, "_train", lambda *args: pytest.fail("trained again"))
    assert warmup.warm_up("task", rows, schedule=SHORT) == first


@pytest.mark.parametrize("change", ["rows", "seed", "schedule", "tokenizer", "build", "goal"])
def test_any_change_gets_its_own_folder(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "_train", lambda rows, folder, *rest: folder.mkdir())
    rows = demonstrations(16, seed=0)
    other_rows, settings = {
        "rows": (demonstrations(16, seed=1), {}),
        "seed": (rows, {"seed": 1}),
        "schedule": (rows, {"schedule": {**warmup.SCHEDULE, "learning_rate": 1.0}}),
        "tokenizer": (rows, {"tokenizer": word_tokenizer()}),
        "build": (rows, {"build": larger}),
        "goal": (rows, {"goal": warmup.Goal("nothing", lambda model: True, every=1, settle=1)}),
    }[change]
    assert warmup.warm_up("task", rows) != warmup.warm_up("task", other_rows, **settings)


def test_an_interrupted_warm_up_leaves_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(warmup.trl.SFTTrainer, "train", interrupted)
    rows = demonstrations(16, seed=0, digits=1)
    with pytest.raises(KeyboardInterrupt):
        warmup.warm_up("task", rows, schedule=SHORT)
    assert not [path for path in (warmup.cache_folder() / "tiny").iterdir() if path.is_dir()]


def test_conversations_train_like_the_ids_and_labels_they_stand_for() -> None:
    tokenizer = word_tokenizer()
    rows = [{"messages": messages} for messages in conversations(16, seed=0, people=20, companies=5)]
    columns = warmup.labelled([row["messages"] for row in rows], tokenizer)
    ready = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    settings: dict[str, Any] = {"schedule": UNCUT, "tokenizer": tokenizer, "build": small}
    folders = [warmup.warm_up("task", form, **settings) for form in (rows, ready)]
    assert folders[0] != folders[1]
    first, second = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in folders)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert AutoTokenizer.from_pretrained(folders[0]).get_vocab() == tokenizer.get_vocab()


def test_a_conversation_step_is_the_gradient_of_the_assistant_s_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = word_tokenizer()
    rows = [{"messages": messages} for messages in conversations(8, seed=3, people=20, companies=5)]
    columns = warmup.labelled([row["messages"] for row in rows], tokenizer)
    model, losses = small(tokenizer, 0), list[float]()
    for ids, labels in zip(columns["input_ids"], columns["labels"], strict=True):
        logprobs = model(torch.tensor([ids])).logits[0, :-1].detach().log_softmax(-1)
        trained = [place for place in range(1, len(ids)) if labels[place] != warmup.IGNORED]
        losses += [-float(logprobs[place - 1, ids[place]]) for place in trained]
    seen: list[float] = []
    step = warmup.trl.SFTTrainer.training_step

    def watched(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = step(self, *args, **kwargs)
        seen.append(float(loss))
        return loss

    monkeypatch.setattr(warmup.trl.SFTTrainer, "training_step", watched)
    warmup.warm_up("task", rows, schedule=UNCUT, tokenizer=tokenizer, build=small)
    assert seen == pytest.approx([sum(losses) / len(losses)], rel=1e-5)


def test_a_goal_lowers_the_learning_rate_and_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = warmup.trl.SFTTrainer.training_step

    def watched(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        rates.append(self.optimizer.param_groups[0]["lr"])
        loss: torch.Tensor = step(self, *args, **kwargs)
        return loss

    monkeypatch.setattr(warmup.trl.SFTTrainer, "training_step", watched)
    schedule = SHORT | {
        "max_steps": 50,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "max_length": 16,
    }
    looks: list[int] = []

    def reached(model: Any) -> bool:
        looks.append(len(rates))
        return len(rates) >= 6

    texts = [{"text": f"where is {name} ?"} for name in FIRST_NAMES[:2]]
    goal = warmup.Goal("six steps", reached, every=3, settle=4)
    warmup.warm_up("task", texts, schedule=schedule, tokenizer=word_tokenizer(), build=small, goal=goal)
    assert looks == [3, 6]
    assert rates == pytest.approx([0.01] * 6 + [0.01, 0.0075, 0.005, 0.0025])


def test_text_is_read_in_blocks_of_whole_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    step = warmup.trl.SFTTrainer.training_step

    def watched(self: Any, model: Any, inputs: Any, *args: Any) -> torch.Tensor:
        seen.append(inputs["input_ids"].clone())
        assert torch.equal(inputs["labels"], inputs["input_ids"])
        loss: torch.Tensor = step(self, model, inputs, *args)
        return loss

    monkeypatch.setattr(warmup.trl.SFTTrainer, "training_step", watched)
    tokenizer = word_tokenizer()
    names = FIRST_NAMES[:3]
    texts = [f"where is {names[0]} ?", f"{names[1]} works at {CITIES[0]} .", f"who is {names[2]} ?"]
    schedule = SHORT | {"max_length": 7, "max_steps": 2, "per_device_train_batch_size": 4}
    warmup.warm_up("task", [{"text": text} for text in texts], schedule=schedule, tokenizer=tokenizer, build=small)
    ids = torch.cat(seen)
    assert ids.shape == (8, 7)
    read = tokenizer.decode(ids.flatten()).split(" <|end|> ")
    assert sorted(read[:3]) == sorted(texts), "a pass holds every text once"
    assert all(text in texts for text in read[:-1])
