"""The STOC trainer: constant settings are plain TRL, stages go on where they stopped, and options do what they say."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from rlft.record.jsonl import read_jsonl
from rlft.record.stages import AnotherRun
from rlft.stream import Stream
from rlft.tiny.biographies import biographies, biography_world, probes
from rlft.tiny.model import tiny_model
from rlft.tiny.word_tokenizer import word_tokenizer
from rlft.tiny.words import BIOGRAPHY_WORDS
from rlft.trainers import stoc_replay
from rlft.trainers.health import HealthError
from rlft.trainers.stoc import STOCConfig, STOCTrainer, freeze
from rlft.trainers.stoc_replay import read_rows
from rlft.trainers.stoc_samples import samples_of

WORLD = biography_world(0)
NEW, OLD = biographies(WORLD, "new", 0, copies=1)[:24], biographies(WORLD, "old", 0, copies=1)[:24]
PROBES = {"old": probes(WORLD, "old", 0)[:20], "new": probes(WORLD, "new", 0)[:20]}


@pytest.fixture(scope="module")
def theta_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with the words of biographies."""
    folder = tmp_path_factory.mktemp("models") / "theta-0"
    tokenizer = word_tokenizer(BIOGRAPHY_WORDS)
    tiny_model(tokenizer, hidden=16, layers=2, heads=2, kv_heads=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    shared = {
        **{"output_dir": str(folder), "max_steps": 3, "per_device_train_batch_size": 4, "max_length": 32, "seed": 5},
        **{"learning_rate": 1e-2, "logging_steps": 1, "use_cpu": True, "bf16": False, "report_to": "none"},
        **{"gradient_checkpointing": False, "save_strategy": "no", "disable_tqdm": True},
    }
    return {**shared, **changes}


def config(folder: Path, **changes: Any) -> STOCConfig:
    replay = {"alpha": 0.5, "seed_width": 3, "replay_max_length": 40, "max_repetition": None, "shard_items": 32}
    return STOCConfig(**settings(folder, **{**replay, **changes}))


def trainer(theta_0: Path, folder: Path, *, old: Any = (), **changes: Any) -> STOCTrainer:
    return STOCTrainer(str(theta_0), config(folder, **changes), NEW, old)


def test_weights_that_are_not_finite_end_a_run(theta_0: Path, tmp_path: Path) -> None:
    with pytest.raises(HealthError, match="step 1, non_finite: .* trainable weights are not finite"):
        trainer(theta_0, tmp_path, alpha=1.0, replay="none", learning_rate=1e39).train()
    assert (tmp_path / "record/alarms.jsonl").is_file()


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def mixed(folder: Path) -> list[dict[str, Any]]:
    return read_rows(folder / "replay/mix.jsonl.gz")


def test_without_replay_and_anchor_it_is_plain_trl_bit_for_bit(theta_0: Path, tmp_path: Path) -> None:
    ours = trainer(theta_0, tmp_path / "ours", alpha=1.0, replay="none")
    ours.train()
    samples = mixed(tmp_path / "ours")
    assert {sample["source"] for sample in samples} == {"new"}
    stream = Stream(samples, end_id=ours.processing_class.eos_token_id, length=32, seed=5)
    rows = [stream.block(number) for number in range(12)]
    plain = SFTTrainer(
        str(theta_0),
        args=SFTConfig(**settings(tmp_path / "plain", train_sampling_strategy="sequential")),
        train_dataset=Dataset.from_list([{"input_ids": ids, "labels": labels} for ids, labels in rows]),
    )
    plain.train()
    assert all(torch.equal(weight, weights(ours.model)[name]) for name, weight in weights(plain.model).items())
    assert [row["loss"] for row in ours.state.log_history if "loss" in row] == [
        row["loss"] for row in plain.state.log_history if "loss" in row
    ]


@pytest.mark.parametrize("scorer", ["released", "fair", "sinkless", "prefix", "random", "bos"])
def test_replay_is_written_by_the_model_and_mixed_in_exact_shares(theta_0: Path, tmp_path: Path, scorer: str) -> None:
    one = trainer(theta_0, tmp_path, scorer=scorer)
    one.train()
    rows = mixed(tmp_path)
    tokens = Counter[str]()
    for row in rows:
        tokens[row["source"]] += len(row["ids"])
    assert tokens["replay"] == tokens["new"]
    report = one.replay.report()
    assert report["mix"]["replay_tokens"] == tokens["replay"]
    assert report["mix"]["repeats"] == 0
    assert "50.00%" in report["mix"]["text"]
    seeds = {f"{seed.sample_id}:{seed.start}-{seed.end}": seed for seed in one.replay.seeds()}
    by_id = {row["id"]: row for row in rows if row["source"] == "new"}
    assert report["seeds"]["seeds"] == len(seeds) == (24 if scorer == "bos" else 72)
    for row in rows:
        if row["source"] == "replay":
            seed = seeds[row["seed_id"]]
            assert tuple(row["ids"][: row["seed_tokens"]]) == seed.ids
    for seed in seeds.values():
        sample = samples_of(NEW, one.processing_class, "new")[[row["id"] for row in NEW].index(seed.sample_id)]
        assert tuple(sample["ids"][seed.start : seed.end]) == seed.ids
    assert set(by_id) == {row["id"] for row in NEW}


def test_a_pool_of_a_size_writes_no_more_than_that(theta_0: Path, tmp_path: Path) -> None:
    small, all_of_it = (trainer(theta_0, tmp_path / str(pool), replay_pool=pool) for pool in (1.5, 0.0))
    small.train()
    all_of_it.train()
    written = [sorted((tmp_path / pool / "replay").glob("written-*")) for pool in ("1.5", "0.0")]
    assert len(written[0]) < len(written[1]) == -(-72 * 3 // 32)
    tokens = [sum(len(item["ids"]) for item in read_rows(path)) for path in written[0]]
    assert sum(tokens[:-1]) < 1.5 * small.replay.wanted_tokens <= sum(tokens)
    assert written[0][0].read_bytes() == written[1][0].read_bytes()


def test_writing_reads_each_shard_once(theta_0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer(theta_0, tmp_path, replay_pool=1.5, shard_items=8)
    read = Counter[str]()

    def counted(path: Path) -> list[dict[str, Any]]:
        read[path.name] += 1
        return read_rows(path)

    monkeypatch.setattr(stoc_replay, "read_rows", counted)
    one.replay.make(one.model, one.name, lambda: one._sampler().policy(tmp_path, lambda _: one.model))
    shards = {path.name for path in (tmp_path / "replay").glob("written-*")}
    assert len(shards) > 3
    assert {name: read[name] for name in shards} == dict.fromkeys(shards, 2)  # to count its tokens, and to sort it out


def test_samples_that_seeds_began_can_be_left_out(theta_0: Path, tmp_path: Path) -> None:
    one = trainer(theta_0, tmp_path, stop_at_end=False, keep_seeded_sample=False, short="less", replay_max_length=120)
    one.train()
    end = one.processing_class.eos_token_id
    written = {item["id"]: item for path in (tmp_path / "replay").glob("written-*") for item in read_rows(path)}
    replay = [row for row in mixed(tmp_path) if row["source"] == "replay"]
    assert replay
    for row in replay:
        whole = written[row["id"]]["ids"]
        rest = whole[whole.index(end) + 1 :]
        assert row["ids"] == [*rest, end][: len(row["ids"])]
    assert one.replay.report()["filter"]["dropped"]["empty"] > 0


def test_real_replay_is_old_rows(theta_0: Path, tmp_path: Path) -> None:
    one = trainer(theta_0, tmp_path, replay="real", old=OLD, alpha=0.8)
    one.train()
    names = {row["id"] for row in mixed(tmp_path) if row["source"] == "replay"}
    assert names
    assert names < {row["id"] for row in OLD}
    assert not list((tmp_path / "replay").glob("seeds-*"))


def test_an_old_completion_that_is_cut_keeps_its_labels(theta_0: Path, tmp_path: Path) -> None:
    old = [{"id": row["id"], "prompt": row["text"][:5], "completion": row["text"][5:]} for row in OLD[:1]]
    old[0]["prompt"], old[0]["completion"] = OLD[0]["text"].split(" ")[0], OLD[0]["text"][OLD[0]["text"].index(" ") :]
    trainer(theta_0, tmp_path, replay="real", old=old, alpha=0.99).train()
    cut = next(row for row in mixed(tmp_path) if row["source"] == "replay")
    assert len(cut["labels"]) == len(cut["ids"]) < 20
    assert cut["text"] is None


def test_replay_begins_as_new_text_does_where_the_tokenizer_puts_a_start(theta_0: Path, tmp_path: Path) -> None:
    tokenizer = word_tokenizer(BIOGRAPHY_WORDS)
    start = tokenizer.convert_tokens_to_ids("law")
    tokenizer.bos_token = "law"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="law $A", special_tokens=[("law", start)])
    for scorer in ("released", "bos"):
        folder = tmp_path / scorer
        STOCTrainer(str(theta_0), config(folder, scorer=scorer), NEW, processing_class=tokenizer).train()
        items = read_rows(folder / "replay/kept.jsonl.gz")
        assert {row["ids"][0] for row in mixed(folder)} == {start}
        assert {item["seed_tokens"] for item in items} == ({1} if scorer == "bos" else {4})
        assert not any(item["ids"][:2] == [start, start] for item in items)


@pytest.mark.parametrize("file", ["seeds-00000.jsonl", "kept.jsonl.gz"])
def test_a_damaged_file_is_made_again_and_the_run_is_still_known(theta_0: Path, tmp_path: Path, file: str) -> None:
    trainer(theta_0, tmp_path).train()
    first = mixed(tmp_path)
    (tmp_path / "replay" / file).write_bytes(b"damage")
    trainer(theta_0, tmp_path).train()
    assert mixed(tmp_path) == first
    with pytest.raises(AnotherRun, match="scorer was 'released', is 'random'"):
        trainer(theta_0, tmp_path, scorer="random").train()


class Stop(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def whole(theta_0: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Folder of a run of small shards that nobody disturbed, and its weights."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    one = trainer(theta_0, folder, shard_items=8)
    one.train()
    return folder, weights(one.model)


@pytest.mark.parametrize("place", ["_seeds", "write_items", "_sort_out", "_mix"])
def test_a_killed_stage_goes_on(
    whole: tuple[Path, dict[str, torch.Tensor]],
    theta_0: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    owner: Any = stoc_replay if place == "write_items" else stoc_replay.Replay
    calls, real = 0, getattr(owner, place)

    def dies(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == (10 if place == "_seeds" else 3 if place == "write_items" else 1):
            raise Stop
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, place, dies)
        with pytest.raises(Stop):
            trainer(theta_0, tmp_path, shard_items=8).train()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "replay").glob("*-0*")}
    again = trainer(theta_0, tmp_path, shard_items=8)
    again.train()
    assert all((tmp_path / "replay" / name).stat().st_mtime_ns == time for name, time in before.items())
    folder, expected = whole
    assert mixed(tmp_path) == mixed(folder)
    assert all(torch.equal(weight, weights(again.model)[name]) for name, weight in expected.items())


class StopAt(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Stop


@pytest.mark.parametrize("extra", [{}, {"anchor": "ewc", "anchor_strength": 50.0}])
def test_training_resumes_from_a_checkpoint(theta_0: Path, tmp_path: Path, extra: dict[str, Any]) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5, "old": OLD, **extra}
    whole = trainer(theta_0, tmp_path / "whole", **saving)
    whole.train()
    killed = trainer(theta_0, tmp_path / "killed", **saving)
    killed.add_callback(StopAt(3))
    with pytest.raises(Stop):
        killed.train()
    again = trainer(theta_0, tmp_path / "killed", **saving)
    again.train(resume_from_checkpoint=True)
    assert all(torch.equal(weight, weights(again.model)[name]) for name, weight in weights(whole.model).items())


@pytest.mark.parametrize("kind", ["ewc", "l2"])
def test_an_anchor_holds_the_weights_back(theta_0: Path, tmp_path: Path, kind: str) -> None:
    moved = []
    for strength in (0.0, 1.0, 100.0):
        anchor = {"anchor": kind, "anchor_strength": strength} if strength else {}
        one = trainer(
            theta_0,
            tmp_path / str(strength),
            alpha=1.0,
            replay="none",
            old=OLD,
            max_steps=12,
            learning_rate=1e-3,
            **anchor,
        )
        start = weights(one.model)
        one.train()
        moved.append(sum(((weight - start[name]) ** 2).sum() for name, weight in weights(one.model).items()).item())
        logged = ["anchor_penalty" in row for row in one.state.log_history if "loss" in row]
        assert logged == [strength > 0] * 12
    assert moved[0] > moved[1] > moved[2] > 0


def test_frozen_layers_stay(theta_0: Path, tmp_path: Path) -> None:
    one = trainer(theta_0, tmp_path, freeze_layers=1)
    start = weights(one.model)
    one.train()
    still = {name for name, weight in weights(one.model).items() if torch.equal(weight, start[name])}
    assert {name for name in start if "embed" in name or "layers.0" in name or "lm_head" in name} == still


def test_an_adapter_loads_without_rlft(theta_0: Path, tmp_path: Path) -> None:
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    one = STOCTrainer(str(theta_0), config(tmp_path), NEW, peft_config=adapter)
    one.train()
    one.save_model(str(tmp_path / "saved"))
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(theta_0), str(tmp_path / "saved"))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.allclose(loaded.eval()(ids).logits, one.model.eval()(ids).logits, atol=1e-5)


def test_probes_are_logged_before_during_and_after(theta_0: Path, tmp_path: Path) -> None:
    one = STOCTrainer(str(theta_0), config(tmp_path, max_steps=4, probe_steps=2), NEW, probes=PROBES)
    one.train()
    looks = [row for row in one.state.log_history if "probe/old/hfta" in row]
    assert [row["step"] for row in looks] == [0, 2, 4]
    assert looks[-1]["probe/new/sfta"] != looks[0]["probe/new/sfta"]
    assert {name: looks[-1][name] for name in one.evaluate()} == pytest.approx(one.evaluate())


def test_epochs_are_passes_over_the_mix(theta_0: Path, tmp_path: Path) -> None:
    one = trainer(theta_0, tmp_path, max_steps=-1, num_train_epochs=2)
    one.train()
    tokens = sum(len(row["ids"]) for row in mixed(tmp_path))
    assert one.state.global_step == 2 * tokens // 32 // 4


def test_another_run_s_replay_is_refused(theta_0: Path, tmp_path: Path) -> None:
    trainer(theta_0, tmp_path).train()
    with pytest.raises(AnotherRun, match="scorer was 'released', is 'fair'"):
        trainer(theta_0, tmp_path, scorer="fair").train()
    with pytest.raises(AnotherRun, match="new data was"):
        STOCTrainer(str(theta_0), config(tmp_path), NEW[:-1]).train()


def test_a_pool_that_filters_emptied_is_stated(theta_0: Path, tmp_path: Path) -> None:
    trainer(theta_0, tmp_path / "all", replay_samples=1).train()
    written = [item for path in (tmp_path / "all/replay").glob("written-*") for item in read_rows(path)]
    likeliest = float(np.quantile([np.exp(-item["logprob"]) for item in written], 0.1))
    strict: dict[str, Any] = {"replay_samples": 1, "max_perplexity": likeliest}
    with pytest.raises(ValueError, match="alpha=0.5 wants .* tokens of replay, and the pool"):
        trainer(theta_0, tmp_path / "error", **strict).train()
    less = trainer(theta_0, tmp_path / "less", short="less", **strict)
    less.train()
    report = less.replay.report()
    assert report["filter"]["dropped"]["perplexity"] > len(written) / 2
    assert report["mix"]["missing_tokens"] > 0
    assert "replay is short" in report["mix"]["text"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0.0}, "alpha=0.0 is the share of NEW tokens"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"alpha": 1.0}, "replay='self' with alpha=1.0"),
        ({"replay": "none"}, "replay='none' with alpha=0.5"),
        ({"scorer": "attention"}, "scorer='attention' is none of released"),
        ({"anchor": "ewc"}, "anchor='ewc' with anchor_strength=0.0"),
        ({"keep_seeded_sample": False}, "stop_at_end=false"),
        ({"replay_temperature": 0.0}, "replay_temperature=0.0"),
        ({"replay_pool": 0.5}, "replay_pool=0.5"),
        ({"minhash_threshold": 2.0}, "minhash_threshold=2.0"),
        ({"max_length": 1}, "max_length=1"),
        ({"packing": True}, "packed and ordered already"),
        ({"seed_width": 0}, "seed_width=0"),
        ({"eager_attention": True, "attention_weighting": "value"}, "eager maps do not hold"),
        ({"sampler": "vllm"}, "vllm is not installed"),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "train_dataset has no rows"),
        ([{"id": "a", "text": ""}], "'a' holds no token"),
        ([{"id": "a", "words": "b"}], "'a' has columns id, words; a row is text, prompt"),
        ([{"id": "a", "prompt": "the home", "completion": ""}], "the completion has none"),
        ([{"id": "a", "input_ids": [5, 6], "labels": [5]}], "2 input_ids and 1 labels"),
        ([{"id": "a", "input_ids": [5, 6]}, {"id": "a", "text": "law"}], "id 'a' comes twice"),
        (
            [{"id": "a", "text": "Paris is the capital"}],
            "of the tokens are '<.unk.>', words that the tokenizer does not",
        ),
    ],
)
def test_data_that_cannot_be_learnt(theta_0: Path, tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STOCTrainer(str(theta_0), config(tmp_path), rows)


def test_old_data_that_is_needed_and_missing(theta_0: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="replay='real' needs the old data"):
        trainer(theta_0, tmp_path, replay="real")
    with pytest.raises(ValueError, match="anchor='ewc' needs the old data"):
        trainer(theta_0, tmp_path, anchor="ewc", anchor_strength=1.0)


def test_texts_prompts_and_ids_give_the_same_sample() -> None:
    tokenizer = word_tokenizer(BIOGRAPHY_WORDS)
    ids = tokenizer("the home of")["input_ids"]
    text, pair, given = samples_of(
        [
            {"text": "the home of"},
            {"prompt": "the home", "completion": " of", "subject": "home"},
            {"input_ids": ids, "id": 7},
        ],
        tokenizer,
        "rows",
    )
    end = tokenizer.eos_token_id
    assert text == {"id": "0", "ids": [*ids, end]}
    assert pair == {"id": "1", "ids": [*ids, end], "labels": [-100, -100, ids[-1], end], "subject": "home"}
    assert given == {"id": "7", "ids": [*ids, end]}


def test_more_layers_than_there_are_cannot_be_frozen(theta_0: Path) -> None:
    with pytest.raises(ValueError, match="freeze_layers=2 of 2 layers"):
        freeze(AutoModelForCausalLM.from_pretrained(theta_0), 2)


def test_the_record_says_what_was_made(theta_0: Path, tmp_path: Path) -> None:
    trainer(theta_0, tmp_path).train()
    folder = tmp_path / "replay"
    assert list(json.loads((folder / "manifest.json").read_text())) == ["seeds", "write", "filter", "mix"]
    seed = read_jsonl(folder / "seeds-00000.jsonl")[0]
    assert seed.keys() == {"sample_id", "start", "end", "ids", "score", "scorer", "text"}
    item = read_rows(folder / "written-00000.jsonl.gz")[0]
    assert item.keys() == {"id", "seed_id", "ids", "text", "seed_tokens", "logprob", "gen"}
    shutil.rmtree(folder)
