"""The reward model of a run, from the answers of a scripted policy to LaMP's rows: pairs, training, audit, rows."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlft import finish_scorer
from rlft.arguments import PersonalArguments
from rlft.data.personal import PersonalRows, Wanted, lamp_rows
from rlft.data.profile_prompt import ProfilePrompt
from rlft.data.prompts import DataError
from rlft.finish_scorer import make_scorer
from rlft.prepare_scorer import ScorerPlan, plan_scorer, rows_for_pairs
from rlft.retrieval.profiles import profile_chooser
from rlft.reward_models import read_pairs
from rlft.reward_models.origin import read_origin, without_seen
from rlft.reward_models.pairs import Ask
from rlft.reward_models.users import user_of
from rlft.tiny.lamp_files import write_lamp_files
from rlft.tiny.tasks import StyleTask
from tests.reward_models.toy import encoder

RECIPE = PersonalArguments(
    retriever="recency",
    profiles=2,
    pair_rows=60,
    scorer_epochs=1,
    scorer_batch_size=8,
    scorer_device_batch_size=4,
    scorer_max_length=48,
    drift_rows=4,
)
POLICY = SimpleNamespace(model_name_or_path="tiny/style", model_revision="main")


def training(folder: Path, **more: Any) -> Any:
    """What is read of a `PrLMConfig`."""
    said = {
        "output_dir": str(folder),
        "scorer": None,
        "personalization_weight": 0.1,
        "drift_steps": 1,
        "resume_from_checkpoint": None,
        "world_size": 1,
        "device": "cpu",
        "answer_key": "title",
        "think_end": "</think>",
        "max_completion_length": 16,
        "seed": 0,
        "bf16": False,
        "fp16": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "trust_remote_code": False,
    }
    return SimpleNamespace(**(said | more))


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    model, tokenizer = encoder()
    for one in (model, tokenizer):
        one.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write_lamp_files(tmp_path, 4, StyleTask().world(), {"train": 70, "dev": 4})


@pytest.fixture
def rows(files: Path) -> PersonalRows:
    return read(files, 60)


def read(files: Path, pairs: int, train: int = 10) -> PersonalRows:
    return lamp_rows(files, 4, ("train", "dev"), Wanted(train, pairs, 4))


def planned(rows: PersonalRows, recipe: PersonalArguments, args: Any, **prompt: Any) -> ScorerPlan:
    tokenizer = StyleTask().tokenizer()
    built = ProfilePrompt(rows.wording, tokenizer, **prompt)
    plan = plan_scorer(recipe, POLICY, args, rows, built, profile_chooser("recency"), tokenizer)
    assert plan is not None
    return plan


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that copies the first past item's title, and writes plainly where it has none."""

    def answers(plan: Any, model: Any, args: Any) -> Any:
        return lambda asks: [_said(ask) for ask in asks]

    monkeypatch.setattr(finish_scorer, "_answers", answers)
    monkeypatch.setattr("rlft.finish_scorer.AutoModelForCausalLM.from_pretrained", lambda *_, **__: None)


def _said(ask: Ask) -> str | None:
    return ask.items[0]["target"] if ask.items else "plain"


def test_a_blind_reward_model_of_the_paper(
    files: Path,
    rows: PersonalRows,
    backbone: Path,
    tmp_path: Path,
    scripted: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, args = replace(RECIPE, scorer_model=str(backbone)), training(tmp_path / "run")
    (tmp_path / "run").mkdir()
    folder, fresh = make_scorer(planned(rows, recipe, args), "policy", {}, args)
    assert folder == str(tmp_path / "run/scorer")
    audit = json.loads((tmp_path / "run/audit.json").read_text())
    assert (audit["form"], audit["task"], audit["negatives"].keys()) == ("blind", "LaMP_4", {"none"})
    assert audit["swap_gap"]["mean"] == 0
    assert "swap gap            0.000" in capsys.readouterr().out
    held_out = {pair.user_id for pair in read_pairs(tmp_path / "run/scorer/held_out.jsonl")}
    assert fresh is not None
    assert len(fresh.rows) == 4
    assert {user_of(row) for row in fresh.rows} <= held_out
    pairs = read_pairs(tmp_path / "run/pairs.jsonl")
    assert {pair.id for pair in pairs} <= {row["id"] for row in rows.pairs}
    origin = read_origin(folder)
    assert origin is not None
    assert origin.rows == {(pair.id, pair.user_id) for pair in pairs if pair.user_id not in held_out}

    again = training(tmp_path / "next", scorer=folder)
    (tmp_path / "next").mkdir()
    capsys.readouterr()
    set_aside = read(files, rows_for_pairs(recipe, again))
    same, asked = make_scorer(planned(set_aside, recipe, again), "policy", {}, again)
    assert same == folder
    assert asked is not None
    assert asked.rows == fresh.rows
    assert json.loads((tmp_path / "next/audit.json").read_text()) == audit
    assert "fewer than --drift_rows" not in capsys.readouterr().out
    more = replace(recipe, drift_rows=60)
    _, fewer = make_scorer(planned(set_aside, more, again), "policy", {}, again)
    assert fewer is not None
    assert {user_of(row) for row in fewer.rows} <= held_out
    assert f"drift checks ask {len(fewer.rows)} rows, fewer than --drift_rows 60" in capsys.readouterr().out

    strangers = [row for row in rows.pairs if row["user_id"] in origin.users]
    with pytest.raises(ValueError, match="0 of .* rows for drift checks are of users"):
        planned(replace(rows, pairs=strangers), recipe, again)
    apart = without_seen(read(files, 0, train=70), folder)
    assert not {(row["id"], row["user_id"]) for row in apart.train} & origin.rows
    assert sum(apart.left_out.values()) == len(origin.rows) == 70 - len(apart.train)
    with pytest.raises(DataError, match="none of .* rows to train on is left"):
        without_seen(
            replace(rows, train=[row for row in rows.pairs if (row["id"], row["user_id"]) in origin.rows]), folder
        )

    on = training(tmp_path / "run", resume_from_checkpoint="checkpoint-1")
    kept, _ = make_scorer(planned(rows, recipe, on), "policy", {}, on)
    assert kept == folder
    for change, said in {
        "scorer_form": ("aware", "form was 'blind', is 'aware'"),
        "scorer_max_length": (40, "max_length was 48, is 40"),
        "negatives": (["none", "swap"], r"negatives was \['none'\], is \['none', 'swap'\]"),
        "scorer_epochs": (2, "scorer_epochs was 1, is 2"),
    }.items():
        with pytest.raises(ValueError, match=f"made with other settings: {said[1]}.*--scorer"):
            planned(rows, replace(recipe, **{change: said[0]}), on)
    with pytest.raises(ValueError, match="no reward model in .*--scorer"):
        planned(rows, recipe, training(tmp_path / "elsewhere", resume_from_checkpoint="checkpoint-1"))


def test_what_the_reward_model_cannot_read_is_left_out_and_counted(
    rows: PersonalRows, backbone: Path, tmp_path: Path, scripted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wordy, silent = rows.pairs[1]["id"], rows.pairs[2]["id"]

    def said(ask: Ask) -> str | None:
        if ask.row["id"] == wordy and not ask.items:
            return "plain " * 60
        return "\u200b" if ask.row["id"] == silent and ask.items else _said(ask)

    monkeypatch.setattr(finish_scorer, "_answers", lambda *_: lambda asks: [said(ask) for ask in asks])
    long = replace(rows, pairs=[rows.pairs[0] | {"query": "ask " * 46}, *rows.pairs[1:]])
    args = training(tmp_path)
    plan = planned(long, replace(RECIPE, scorer_model=str(backbone)), args)
    assert (len(plan.rows), plan.query_too_long) == (59, 1)
    make_scorer(plan, "policy", {}, args)
    counts = json.loads((tmp_path / "pairs.json").read_text())
    kept = {pair.id for pair in read_pairs(tmp_path / "pairs.jsonl")}
    assert (counts["rows"], counts["query_too_long"], counts["too_long"], counts["no_tokens"]) == (59, 1, 1, 1)
    assert len(kept) == counts["pairs"]
    assert kept.isdisjoint({rows.pairs[0]["id"], wordy, silent})


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("audit_share", 0.0, "--audit_share 0.0 must be between 0 and 1"),
        ("pair_batch_size", 0, "--pair_batch_size 0 must be at least 1"),
        ("scorer_learning_rate", 0.0, "--scorer_learning_rate 0.0 must be above 0"),
        ("scorer_learning_rate", float("nan"), "--scorer_learning_rate nan must be above 0"),
        ("scorer_epochs", 0.0, "--scorer_epochs 0.0 must be above 0"),
        ("scorer_warmup_steps", -1, "--scorer_warmup_steps -1 must be at least 0"),
        ("scorer_lora_r", -1, "--scorer_lora_r -1 must be at least 0"),
        ("scorer_max_length", 15, "--scorer_max_length 15 must be at least 16"),
        ("scorer_max_length", 513, "max_length=513, but the model has 512 positions"),
        ("scorer_model", "/no/such/folder", "no reward model can be made of '/no/such/folder'"),
        ("drift_rows", 1, "--drift_rows 1 must be at least 2"),
    ],
)
def test_options_are_checked_before_anything_is_sampled(
    option: str, value: Any, message: str, rows: PersonalRows, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        planned(rows, replace(RECIPE, **{option: value}), training(tmp_path))


def test_a_margin_needs_rouge(rows: PersonalRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("pip install rouge_score")

    monkeypatch.setattr("rlft.prepare_scorer.rouge_scorer", missing)
    planned(rows, RECIPE, training(tmp_path))
    with pytest.raises(ImportError, match="rouge_score"):
        planned(rows, replace(RECIPE, pair_margin=0.1), training(tmp_path))


@pytest.mark.parametrize("kind", ["swap", "corrupt"])
def test_prompts_with_other_users_items_are_tried_too(kind: str, rows: PersonalRows, tmp_path: Path) -> None:
    """Every row's own prompt fits, none with a token to spare; a long query beside another's long titles does not."""
    users = sorted({row["user_id"] for row in rows.pairs})
    long = {user: [item | {"target": "red " * 40} for item in _profile(rows, user)] for user in users[::2]}
    changed = [
        row | ({"profile": long[row["user_id"]]} if row["user_id"] in long else {"query": "red " * 80})
        for row in rows.pairs
    ]
    recipe = replace(RECIPE, scorer_max_length=128)
    whole = ProfilePrompt(rows.wording, StyleTask().tokenizer())
    own = [whole._length(whole.messages(row, row["profile"][:2])) for row in changed]
    budget = {"max_tokens": max(own), "over_budget": "error"}
    short = planned(replace(rows, pairs=changed), recipe, training(tmp_path), **budget)
    assert short.options.negatives == ("none",)
    with pytest.raises(ValueError, match=f"max_tokens is {max(own)}"):
        planned(replace(rows, pairs=changed), replace(recipe, negatives=["none", kind]), training(tmp_path), **budget)


def _profile(rows: PersonalRows, user: str) -> list[dict[str, Any]]:
    return next(row["profile"] for row in rows.pairs if row["user_id"] == user)


def test_the_backbone_is_the_policy_s_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def cached(name: str, file: str, revision: str) -> str:
        asked.append((name, file, revision))
        return "/cache/snapshots/1234/config.json"

    monkeypatch.setattr(finish_scorer, "cached_file", cached)
    assert finish_scorer._files_of("owner/model", "v2") == "/cache/snapshots/1234"
    assert asked == [("owner/model", "config.json", "v2")]
    assert finish_scorer._files_of("owner/model", "main") == "owner/model"
    assert finish_scorer._files_of(str(tmp_path), "v2") == str(tmp_path)


def test_answers_in_another_form_are_counted(
    rows: PersonalRows, tmp_path: Path, scripted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish_scorer, "_answers", lambda *_: lambda asks: [None for _ in asks])
    args = training(tmp_path)
    with pytest.raises(ValueError, match=r"pairs of 0 users \(60 rows, 60 empty answer.*--answer_key"):
        make_scorer(planned(rows, RECIPE, args), "policy", {}, args)
    assert not (tmp_path / "scorer").exists()


def test_a_margin_drops_negatives_that_are_as_good(rows: PersonalRows, tmp_path: Path) -> None:
    plan = planned(rows, replace(RECIPE, pair_margin=0.02), training(tmp_path))
    assert plan.options.metric is not None
    assert plan.options.metric("red sun", "red sun") == pytest.approx(1)
    assert plan.options.metric("red", "blue") == 0
    assert plan.options.metric("red", "!") != plan.options.metric("red", "!"), "no words: no number"
    assert planned(rows, RECIPE, training(tmp_path)).options.metric is None


def test_rows_are_set_aside_only_where_they_are_needed(tmp_path: Path) -> None:
    counts = [
        rows_for_pairs(RECIPE, training(tmp_path, **options))
        for options in (
            {},
            {"scorer": "s"},
            {"scorer": "s", "drift_steps": 0},
            {"personalization_weight": 0.0, "drift_steps": 0},
            {"personalization_weight": 0.0},
        )
    ]
    assert counts == [60, 60, 0, 0, 0]
