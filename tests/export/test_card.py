"""The model card: metadata that the Hub reads, facts of the run, commands that name the export."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from rlft.evaluate import metrics
from rlft.export.card import METHODS, card, front_matter, lm_eval_command
from rlft.record.provenance import commit_of, rows_digest, source_of
from rlft.rewards import checked
from rlft.run_folder import RunFolder, find_run
from rlft.saved import SavedModel
from tests.scripts import ROOT

Make = Callable[..., Path]
HUB = SavedModel("/runs/1", "Qwen/Qwen2.5-0.5B", "abc123")


@pytest.fixture
def run(as_run: Make, adapter: Make) -> RunFolder:
    return find_run(as_run(adapter()))


def test_a_card_says_what_the_run_was(run: RunFolder) -> None:
    text = card(run, "", run.models[""], "adapter", Path("/out/adapter"), "all equal", "apache-2.0")
    data = ModelCard(text).data.to_dict()
    assert (data["library_name"], data["license"]) == ("peft", "apache-2.0")
    assert set(data["tags"]) >= {"shear", "lora", "trl", "arxiv:2604.23318"}
    assert "base_model" not in data
    assert "datasets" not in data
    digest = hashlib.sha256(Path(str(metrics.__file__)).read_bytes()).hexdigest()
    for fact in ("| seed | 3 |", digest, "| answer_match, greedy | 0.2500 | 0.7500 |", "| trl | ", "all equal"):
        assert fact in text
    assert "More Information Needed" not in text


def test_names_of_the_hub_become_metadata(run: RunFolder) -> None:
    configuration = run.configuration | {"data": {"dataset_name": "openai/gsm8k"}}
    said = yaml.safe_load(front_matter(replace(run, configuration=configuration), HUB, "merged", None))
    assert said["base_model"] == HUB.base
    assert said["base_model_relation"] == "finetune"
    assert (said["library_name"], said["datasets"]) == ("transformers", ["openai/gsm8k"])
    assert "license" not in said


def test_the_command_of_lm_eval_names_base_and_adapter(run: RunFolder) -> None:
    command = lm_eval_command(run, HUB, "adapter", Path("/out/adapter"))
    model = "pretrained=Qwen/Qwen2.5-0.5B,revision=abc123,peft=/out/adapter,tokenizer=/out/adapter"
    assert command.startswith(f"lm_eval --model hf --model_args {model} ")
    assert "--apply_chat_template" not in command
    chat = replace(run, method="exsearch")
    assert "pretrained=/out/merged " in (found := lm_eval_command(chat, HUB, "merged", Path("/out/merged")))
    assert "--apply_chat_template" in found


def test_constant_credit_is_called_what_it_is(run: RunFolder) -> None:
    training = dict(run.configuration["training"]) | {"credit": "constant"}
    plain = replace(run, configuration=run.configuration | {"training": training})
    assert "# GRPO on" in card(plain, "", run.models[""], "adapter", Path("/out"), "", None)


@pytest.mark.parametrize("name", METHODS)
def test_papers_are_those_of_the_documentation(name: str) -> None:
    assert METHODS[name].arxiv in (ROOT / "docs" / f"{name}.md").read_text()


def test_digests_follow_the_rows_and_the_source(tmp_path: Path) -> None:
    rows = [{"prompt": "1", "answer": "2"}, {"prompt": "3", "answer": "4"}]
    assert rows_digest(rows) == rows_digest([dict(reversed(row.items())) for row in rows])
    assert rows_digest(rows) != rows_digest(rows[::-1])
    assert source_of(checked(metrics.answer_match)) == source_of(metrics.answer_match)
    assert source_of(metrics.answer_match)["file"] == metrics.__file__
    assert source_of(len) == {"file": None, "sha256": None}


def test_a_commit_is_that_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "models--a--b"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    (model / "snapshots" / commit).mkdir(parents=True)
    (model / "snapshots" / commit / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert commit_of("a/b", "main") == commit == commit_of("a/b", None)
    assert commit_of("a/c", None) is None
