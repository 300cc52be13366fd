"""DRO end to end on random tiny models: what a run leaves, its forms, and what may go on."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from rlft.pair import DROPair
from rlft.pair_folder import ROLES
from rlft.record.jsonl import read_jsonl
from rlft.record.stages import AnotherRun
from rlft.rollouts.store import read_shard
from rlft.trainers.dro_learning import MostDropped
from tests.trainers.dro_runs import asked, finished_run, outcome, rows, save_model, trainer

ADAPTER = "adapter_model.safetensors"
CHEAP: dict[str, Any] = {"eval_sampled": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of two rounds."""
    return finished_run(tmp_path_factory.getbasetemp())[0]


@pytest.fixture(scope="module")
def base(run: Path) -> Path:
    return run.parent / "dro-base"


def test_a_round_leaves_its_stages(run: Path) -> None:
    start, last = (json.loads((run / f"round-{number}/manifest.json").read_text()) for number in (0, 2))
    assert list(start) == ["start selector", "start generator", "validate dev"]
    learnt = ["gather", "learn selector", "learn generator"]
    assert list(last) == ["sample", "score", "weigh", *learnt, "validate dev"]
    assert f"selector/{ADAPTER}" in last["learn selector"]["files"]
    assert not any(file.startswith("generator") for file in last["learn selector"]["files"])
    records = read_jsonl(run / "record/metrics.jsonl")
    assert {(line["round"], line["role"]) for line in records} == {(n, role) for n in (1, 2) for role in ROLES}


def test_the_result_is_two_plain_adapters_of_the_best_round(run: Path, base: Path, tmp_path: Path) -> None:
    for role in ROLES:
        assert (run / role / ADAPTER).read_bytes() == (run / "round-2" / role / ADAPTER).read_bytes()
        model = AutoPeftModelForCausalLM.from_pretrained(run / role)
        assert model.generate(torch.tensor([[5, 6]]), min_new_tokens=2, max_new_tokens=2, pad_token_id=0).size(1) == 4
    other = trainer(run, base, train=asked(), num_rounds=2, metric_for_best_model="greedy_kendall_tau", **CHEAP)
    best = max(range(3), key=lambda number: other.train()[number]["greedy_kendall_tau"])
    other.save_model(str(tmp_path))
    assert (tmp_path / "selector" / ADAPTER).read_bytes() == (run / f"round-{best}/selector" / ADAPTER).read_bytes()


def test_the_pair_chooses_and_answers_as_the_run_validated(run: Path) -> None:
    pair = DROPair.load(run, device="cpu")
    assert (pair.saved.lists.size, pair.saved.lists.constrained) == (2, True)
    for row, (key, chosen), (_, said) in zip(
        rows(4, 2),
        (one for path in sorted(run.glob("round-2/dev-greedy-lists-*")) for one in read_shard(path)),
        (one for path in sorted(run.glob("round-2/dev-greedy-answers-*")) for one in read_shard(path)),
        strict=True,
    ):
        assert key["id"] == row["id"]
        passages = row["candidates"][:5]
        assert pair.select(row["question"], passages) == chosen.fields["list"]
        assert pair.answer(row["question"], passages) == said.fields["answer"]


def test_the_saved_pair_has_its_tokenizers_after_a_stage_was_made_again(run: Path, base: Path, tmp_path: Path) -> None:
    """What a model leaves beside its weights belongs to no stage, and is gone when a later one is made again."""
    copied(run, tmp_path / "run")
    (tmp_path / "run/round-2/dev.json").write_text("{}")
    again = trainer(tmp_path / "run", base, train=asked(), num_rounds=2, metric_for_best_model="round", **CHEAP)
    again.train()
    again.save_model(str(tmp_path / "saved"))
    for role in ROLES:
        assert (tmp_path / "saved" / role / "tokenizer_config.json").is_file()


def copied(run: Path, folder: Path) -> None:
    """All but the finished pair."""

    shutil.copytree(run, folder, ignore=lambda place, _: ROLES if Path(place) == run else ())


@pytest.mark.parametrize("role", ROLES)
def test_a_frozen_role_stays_and_the_other_learns_as_ever(run: Path, base: Path, role: str, tmp_path: Path) -> None:
    trainer(tmp_path, base, train=asked(), **{f"freeze_{role}": True}, **CHEAP).train()
    other = ROLES[1 - ROLES.index(role)]
    start, end = (tmp_path / f"round-{number}" for number in (0, 1))
    assert (start / role / ADAPTER).read_bytes() == (end / role / ADAPTER).read_bytes()
    assert (end / other / ADAPTER).read_bytes() == (run / "round-1" / other / ADAPTER).read_bytes()
    assert (start / other / ADAPTER).read_bytes() != (end / other / ADAPTER).read_bytes()
    assert not (end / f"{role}-rows.arrow").exists()
    assert list(json.loads((end / "rows.json").read_text())) == [f"{other}_rows"]


def test_all_parameters_of_both_can_be_trained(base: Path, tmp_path: Path) -> None:
    whole = trainer(tmp_path, base, train=rows(3, 1), peft_config=None, metric_for_best_model="round")
    whole.train()
    whole.save_model()
    weights = {role: (tmp_path / role / "model.safetensors").read_bytes() for role in ROLES}
    assert len({*weights.values(), (base / "model.safetensors").read_bytes()}) == 3
    row = rows(1, 5)[0]
    pair = DROPair.load(tmp_path, device="cpu")
    assert len(pair.select(row["question"], row["candidates"])) == 2
    dev = json.loads((tmp_path / "round-1/dev.json").read_text())
    assert {"greedy_em", "sampled_em", "greedy_invalid_rate", "sampled_recall@1"} <= dev.keys()


def test_the_selector_may_have_another_base(base: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", seed=5)
    run = trainer(
        tmp_path / "run", base, train=rows(3, 1), selector_model=str(other), metric_for_best_model="round", **CHEAP
    )
    run.train()
    run.save_model()
    named = {role: json.loads((tmp_path / "run" / role / "adapter_config.json").read_text()) for role in ROLES}
    assert [named[role]["base_model_name_or_path"] for role in ROLES] == [str(other), str(base)]
    row = rows(4, 2)[0]
    chosen = read_shard(tmp_path / "run/round-1/dev-greedy-lists-00000.jsonl.gz")[0][1].fields["list"]
    assert DROPair.load(tmp_path / "run", device="cpu").select(row["question"], row["candidates"][:5]) == chosen
    with pytest.raises(AnotherRun, match="selector_model was"):
        trainer(tmp_path / "run", base, train=rows(3, 1), **CHEAP).train()


def test_the_pair_can_be_loaded_from_anywhere(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.parent)
    run = trainer(tmp_path, Path(base.name), train=rows(3, 1), num_rounds=0, metric_for_best_model="round", **CHEAP)
    run.train()
    run.save_model()
    monkeypatch.chdir(tmp_path)
    said = json.loads((tmp_path / "pair.json").read_text())
    assert [said[f"{role}_model"] for role in ROLES] == [str(base)] * 2
    assert DROPair.load(tmp_path, device="cpu").saved.one_base


def test_a_revision_is_that_of_the_generators_base(base: Path, tmp_path: Path) -> None:
    pinned: dict[str, Any] = {"model_init_kwargs": {"revision": "v2", "dtype": "float32"}, "num_rounds": 0}
    for name, other, wanted in (("one", None, ["v2", "v2"]), ("two", save_model(tmp_path / "other"), [None, "v2"])):
        run = trainer(tmp_path / name, base, selector_model=other and str(other), **pinned, **CHEAP)
        assert [run.models[role].init_kwargs.get("revision") for role in ROLES] == wanted
        assert run.models["selector"].init_kwargs["dtype"] == "float32"
        run.train()
        run.save_model()
        said = json.loads((tmp_path / name / "pair.json").read_text())
        assert [said[f"{role}_revision"] for role in ROLES] == wanted


def demonstrations(role: str) -> Dataset:
    """Turns such as the role writes."""
    said = "[1] > [2]" if role == "selector" else rows(1, 1)[0]["golden_answers"][0]
    turns = [{"role": "user", "content": "rank where"}, {"role": "assistant", "content": said}]
    return Dataset.from_list([{"messages": turns}] * 4)


def test_a_role_may_be_warmed_up(base: Path, tmp_path: Path) -> None:
    for shown in ((), ("generator",), ROLES):
        warm = {role: demonstrations(role) for role in shown}
        trainer(tmp_path / str(len(shown)), base, warm_up_datasets=warm, num_rounds=0, **CHEAP).train()
    files = {(n, role): (tmp_path / f"{n}/round-0" / role / ADAPTER).read_bytes() for n in range(3) for role in ROLES}
    assert files[0, "selector"] == files[1, "selector"] != files[2, "selector"]
    assert files[0, "generator"] != files[1, "generator"] == files[2, "generator"]
    assert (tmp_path / "2/round-0/selector/tokenizer_config.json").is_file()
    with pytest.raises(ValueError, match="warm_up_datasets for reader; the roles are selector, generator"):
        trainer(tmp_path / "3", base, warm_up_datasets={"reader": demonstrations("generator")})


def test_one_list_a_question_runs_with_a_warning(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run = trainer(tmp_path, base, train=rows(3, 1), num_generations=1, **CHEAP)
    assert "num_generations=1: with one list a question every weight is 1" in caplog.text
    run.train()
    assert all(line["weights_K"] == [1.0] for line in read_jsonl(tmp_path / "round-1/weights.jsonl"))


def test_a_round_of_hopeless_questions_fails_loudly(base: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, base, min_best_loglik=0.0, **CHEAP)
    with pytest.raises(MostDropped, match=r"in 9 of 9 questions \({'all_wrong': 9}\), above max_dropped=0.5"):
        run.train()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"list_size": 3}, "list_size was 2, is 3"),
        ({"candidates": 6}, "candidates was 5, is 6"),
        ({"dedup": "none"}, "dedup was 'count', is 'none'"),
        ({"shuffle_candidates": False}, "shuffle_candidates was True, is False"),
        ({"learning_rate": 1e-3}, "learning_rate was 0.01, is 0.001"),
        ({"train": rows(9, 3)}, "train_rows was"),
        ({"dev": rows(4, 3)}, "dev_rows was"),
        ({"warm_up_datasets": {"selector": demonstrations("selector")}}, "warm_up_rows was"),
        ({"peft_config": None}, "lora was"),
    ],
)
def test_another_run_may_not_go_on(run: Path, base: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AnotherRun, match=message):
        trainer(run, base, **({"train": asked()} | changes), **CHEAP).train()


def test_another_base_may_not_go_on(run: Path, tmp_path: Path) -> None:
    with pytest.raises(AnotherRun, match="generator_model was .*; selector_model was"):
        trainer(run, save_model(tmp_path, seed=9), train=asked(), **CHEAP).train()


def test_what_decides_nothing_may_change(run: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    before = outcome(run)
    free = {"num_rounds": 1, "patience": 2, "sampler_batch_size": 7, "logging_steps": 3, "save_strategy": "steps"}
    free["max_dropped"] = 0.0
    assert len(trainer(run, base, train=asked(), **free, **CHEAP).train()) == 2
    assert outcome(run) == before
