"""Checks of the reward model on fresh pairs: counted by hand with a scorer by rule, and in a run they do not change."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainerControl

from rlft import PrLMConfig, PrLMTrainer, compat
from rlft.retrieval.profiles import profile_chooser
from rlft.reward_models.pair_file import Pair
from rlft.reward_models.pairs import BuiltPairs, PairOptions
from rlft.rewards import RewardError
from rlft.trainers.prlm_drift import DriftCallback, FreshPairs
from tests.trainers.prlm_runs import prompt_of, training_rows, user_rows, write_scorer

Arguments = Callable[..., dict[str, Any]]


class Rule:
    """Scores the share of the profile's words in an answer; has no room for answers of more than five words."""

    def score_what_fits(self, queries: Any, profiles: Any, answers: Sequence[str]) -> list[float | None]:
        scores = self.score(queries, profiles, answers).tolist()
        return [None if len(answer.split()) > 5 else value for answer, value in zip(answers, scores, strict=True)]

    def score(self, queries: Any, profiles: Sequence[Any], answers: Sequence[str]) -> torch.Tensor:
        known = [set(" ".join(item["text"] for item in items).split()) for items in profiles]
        return torch.tensor(
            [len(words & set(said.split())) / len(said.split()) for words, said in zip(known, answers, strict=True)]
        )


def pair(user: str, chosen: str, none: str, swap: str) -> Pair:
    profile = [{"id": "0", "text": user, "target": None, "date": None}]
    return Pair(user, user, "q", profile, chosen, [none, swap], ["none", "swap"])


OURS = [pair("ann", "ann x", "x", "bob x"), pair("bob", "bob x", "x y", "ann x"), pair("cid", "x", "cid", "y z")]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    monkeypatch.setattr(compat, "log_metric", lambda trainer, name, value: found[name].append(value))
    return found


def callback(pairs: list[Pair], **options: Any) -> DriftCallback:
    """On a trainer that stands still, with pairs already made."""
    args = SimpleNamespace(**({"drift_steps": 2, "drift_threshold": 0.6, "drift_stop": False} | options))
    alone = SimpleNamespace(is_main_process=True, num_processes=1)
    trainer = SimpleNamespace(args=args, accelerator=alone, is_fsdp_enabled=False, log=lambda metrics: None)
    counts = {"rows": 9, "pairs": len(pairs), "empty_answer": 9 - len(pairs)}
    fresh = SimpleNamespace(build=lambda trainer, step: BuiltPairs(pairs, dict(counts)), options=PairOptions())
    scorer: Any = Rule()
    return DriftCallback(trainer, scorer, fresh)


def steps(watch: DriftCallback, count: int) -> TrainerControl:
    control = TrainerControl()
    for step in range(1, count + 1):
        watch.on_step_end(watch.trainer.args, SimpleNamespace(global_step=step), control)
    return control


def test_what_a_check_finds(logged: dict[str, list[float]], caplog: pytest.LogCaptureFixture) -> None:
    """ann and bob are told from both others; of cid the chosen answer is nobody's, and loses or ties."""
    watch = callback([*OURS, pair("dan", "dan one two three four five", "x", "y")])
    control = steps(watch, 5)
    assert [check.step for check in watch.history] == [2, 4]
    assert logged["drift/pairs"] == [3, 3]
    assert logged["drift/accuracy"] == pytest.approx([4 / 6] * 2)
    assert logged["drift/accuracy_none"] == logged["drift/accuracy_swap"] == pytest.approx([2 / 3] * 2)
    assert logged["drift/swap_gap"] == pytest.approx([(0.5 + 0.5 + 0) / 3] * 2)
    assert logged["drift/alarm"] == [0, 0]
    assert watch.history[0].counts["too_long"] == 1
    assert not control.should_training_stop
    assert "ALARM" not in caplog.text


@pytest.mark.parametrize("stop", [False, True])
def test_the_alarm(stop: bool, logged: dict[str, list[float]], caplog: pytest.LogCaptureFixture) -> None:
    control = steps(callback(OURS, drift_threshold=0.7, drift_stop=stop), 2)
    assert logged["drift/alarm"] == [1]
    assert control.should_training_stop is stop
    assert "DRIFT ALARM: reward model at step 2: pair accuracy 0.667 on 3 fresh pairs (all 0.667" in caplog.text


def test_no_pairs_are_an_alarm_that_says_why(logged: dict[str, list[float]], caplog: pytest.LogCaptureFixture) -> None:
    steps(callback([]), 2)
    assert logged["drift/alarm"] == [1]
    assert logged["drift/pairs"] == [0]
    assert "drift/accuracy" not in logged
    assert "no pair of the policy's answers can be built (9 rows, 0 pairs, 9 empty_answer" in caplog.text


def test_one_user_s_pairs_have_no_swap_gap(logged: dict[str, list[float]], caplog: pytest.LogCaptureFixture) -> None:
    steps(callback(OURS[:1]), 2)
    assert logged["drift/accuracy"] == [1.0]
    assert "drift/swap_gap" not in logged
    assert "no swap gap" in caplog.text


def test_what_cannot_be_checked() -> None:
    with pytest.raises(ValueError, match="FSDP leaves in pieces; set --drift_steps 0"):
        DriftCallback(SimpleNamespace(is_fsdp_enabled=True), None, None)
    with pytest.raises(ValueError, match="there are none"):
        FreshPairs([], prompt_of, profile_chooser("recency"))


@pytest.mark.parametrize("form", ["blind", "aware"])
def test_a_run_with_checks_trains_like_one_without(
    form: str, random_model: Path, grpo_arguments: Arguments, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers of a random model; an untrained reward model tells them apart no better than chance."""
    folder = write_scorer(tmp_path / "scorer", form)
    fresh = FreshPairs(user_rows(), prompt_of, profile_chooser("bm25"), PairOptions(k=1, negatives=("none", "swap")))
    runs = []
    for number, drift in enumerate([0, 2]):
        options = {"output_dir": str(tmp_path / str(number)), "max_steps": 4, "drift_steps": drift, "think_end": None}
        config = PrLMConfig(scorer=str(folder), format_weight=0, **grpo_arguments(**options))
        trainer = PrLMTrainer(str(random_model), args=config, train_dataset=training_rows(), fresh=fresh)
        with caplog.at_level(logging.WARNING):
            trainer.train()
        runs.append(trainer)
    plain, checked = runs
    assert all(map(torch.equal, plain.model.parameters(), checked.model.parameters()))
    assert not [row for row in plain.state.log_history if "drift/accuracy" in row]
    found = [row for row in checked.state.log_history if "drift/accuracy" in row]
    assert [row["step"] for row in found] == [0, 2, 4]
    watch = next(one for one in checked.callback_handler.callbacks if isinstance(one, DriftCallback))
    assert [check.step for check in watch.history] == [0, 2, 4]
    assert found[1]["drift/accuracy"] == pytest.approx(watch.history[1].drift.accuracy["all"])
    assert {(row["drift/swap_gap"] == 0) for row in found} == {form == "blind"}
    drawn = [fresh.build(checked, step).pairs for step in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


class Stricter(TrainerCallback):
    """No reward model is good enough any more once training has begun."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        args.drift_threshold = 1.0


@pytest.mark.parametrize("from_the_start", [True, False])
def test_the_alarm_ends_a_run(
    from_the_start: bool, random_model: Path, grpo_arguments: Arguments, tmp_path: Path
) -> None:
    fresh = FreshPairs(user_rows(), prompt_of, profile_chooser("bm25"))
    options = {"drift_steps": 2, "drift_threshold": float(from_the_start), "drift_stop": True, "think_end": None}
    options |= {"scorer": str(write_scorer(tmp_path / "scorer")), "format_weight": 0}
    config = PrLMConfig(**options, **grpo_arguments(max_steps=6))
    trainer = PrLMTrainer(
        str(random_model), args=config, train_dataset=training_rows(), fresh=fresh, callbacks=[Stricter()]
    )
    if from_the_start:
        with pytest.raises(RewardError, match=r"at step 0: pair accuracy .* before the first step"):
            trainer.train()
    else:
        trainer.train()
    assert trainer.state.global_step == (0 if from_the_start else 2)
