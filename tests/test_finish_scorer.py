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
from rlft.finish_scorer import make_scorer
from rlft.prepare_scorer import ScorerPlan, plan_scorer, rows_for_pairs
from rlft.retrieval.profiles import profile_chooser
from rlft.reward_models import read_pairs
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
    }
    return SimpleNamespace(**(said | more))


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    model, tokenizer = encoder()
    for one in (model, tokenizer):
        one.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def rows(tmp_path: Path) -> PersonalRows:
    folder = write_lamp_files(tmp_path, 4, StyleTask().world(), {"train": 70, "dev": 4})
    return lamp_rows(folder, 4, ("train", "dev"), Wanted(10, 60, 4))


def planned(rows: PersonalRows, recipe: PersonalArguments, args: Any) -> ScorerPlan:
    tokenizer = StyleTask().tokenizer()
    plan = plan_scorer(
        recipe, args, rows, ProfilePrompt(rows.wording, tokenizer), profile_chooser("recency"), tokenizer
    )
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
    rows: PersonalRows, backbone: Path, tmp_path: Path, scripted: None, capsys: pytest.CaptureFixture[str]
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
    assert len(fresh.rows) <= 4
    assert {user_of(row) for row in fresh.rows} <= held_out
    assert {pair.id for pair in read_pairs(tmp_path / "run/pairs.jsonl")} <= {row["id"] for row in rows.pairs}

    again = training(tmp_path / "next", scorer=folder)
    (tmp_path / "next").mkdir()
    same, asked = make_scorer(planned(rows, recipe, again), "policy", {}, again)
    assert same == folder
    assert asked is not None
    assert asked.rows == fresh.rows
    assert json.loads((tmp_path / "next/audit.json").read_text()) == audit


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
        )
    ]
    assert counts == [60, 4, 0, 0]
