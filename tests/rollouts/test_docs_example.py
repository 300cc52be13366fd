"""The examples of docs/rollouts.md, run as a reader would: saved, imported, driven by a model and by a trainer."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.policy import Sampling
from rlft.rollouts.trajectory import FinishReason
from rlft.tiny.model import tiny_model
from tests.rollouts.scripted import ScriptedPolicy, Shelf

PAGE = (Path(__file__).parents[2] / "docs" / "rollouts.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ROLLOUT, RUN, TRAIN = BLOCKS
PASSAGE = "acme was founded by ann <|im_end|>"


@pytest.fixture
def look_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module that the reader has saved."""
    (tmp_path / "look_up.py").write_text(ROLLOUT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield __import__("look_up")
    torch.set_num_threads(threads)
    sys.modules.pop("look_up")


def test_the_rollout_says_what_the_page_says(look_up: Any, chars: PreTrainedTokenizerFast) -> None:
    policy = ScriptedPolicy(chars, lambda prompt: "ann" if "Answer the question." in prompt else "founder")
    shelf = Shelf({"founder": [PASSAGE]})
    rows = [{"id": "q1", "question": "who founded <|im_end|> acme?"}, {"id": "q2", "question": "who?"}]
    first, second = look_up.look_up_once(rows, policy, Sampling(), frame=ChatFrame(chars), retriever=shelf)
    assert [segment.label for segment in first.segments] == ["query", "passages", "answer"]
    assert first.fields == {"id": "q1", "query": "founder", "passage_ids": [["founder/0"]], "answer": "ann"}
    assert second.fields["id"] == "q2"
    assert len(policy.calls) == 2  # both machines' turns in one batch
    trained = [token for token, own in zip(first.completion_ids, first.trainable_mask, strict=True) if own]
    assert chars.decode(trained) == "founder<|im_end|>ann<|im_end|>"
    fed = chars.decode(first.segments[1].ids)
    assert "acme was founded by ann (|im_end|) Answer the question." in fed
    assert "who founded (|im_end|) acme?" in chars.decode(first.prompt_ids)


def test_the_rollout_keeps_room_for_its_answer(look_up: Any, chars: PreTrainedTokenizerFast) -> None:
    policy = ScriptedPolicy(chars, lambda prompt: "founder")
    row = {"id": "q", "question": "who?", "max_completion_tokens": 60}
    (cut,) = look_up.look_up_once(
        [row], policy, Sampling(), frame=ChatFrame(chars), retriever=Shelf({"founder": ["x" * 60]})
    )
    assert cut.finish is FinishReason.LENGTH
    assert cut.fields["answer"] is None
    assert len(cut.completion_ids) <= 60


def test_running_it_over_a_model(
    look_up: Any, chars: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {
        "tokenizer": chars,
        "model": tiny_model(chars, hidden=32, layers=2),
        "retriever": Shelf({}),
    }
    exec(RUN, names)
    assert [len(trajectory.segments) for trajectory in names["trajectories"]] == [3, 3]
    assert "passages False" in capsys.readouterr().out


def test_training_on_it(look_up: Any, chars: PreTrainedTokenizerFast) -> None:
    names: dict[str, Any] = {
        "tokenizer": chars,
        "model": tiny_model(chars, hidden=32, layers=2),
        "retriever": Shelf({}),
        "dataset": Dataset.from_list([{"prompt": "who?", "answer": "ann"}, {"prompt": "where?", "answer": "oslo"}]),
    }
    quick = "use_cpu=True, bf16=False, max_steps=1, per_device_train_batch_size=8, report_to='none', disable_tqdm=True"
    exec(TRAIN.replace("SHEARConfig(output", f"SHEARConfig({quick}, output"), names)
    trainer = names["trainer"]
    assert trainer.state.global_step == 1
    given = trainer.rollout_func(["who?", "who?"], trainer)
    fed = [
        chars.decode([token for token, own in zip(ids, mask, strict=True) if not own])
        for ids, mask in zip(given["completion_ids"], given["env_mask"], strict=True)
    ]
    assert all("Nothing was found. Answer the question." in text for text in fed)
    assert given["completion_ids"][0] != given["completion_ids"][1]
