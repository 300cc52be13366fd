"""PrLM on TRL: plain GRPO bit for bit, what it refuses before a model is loaded, what it logs and leaves behind."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rlft import PrLMConfig, PrLMTrainer
from rlft.record.rollouts import RolloutRow, read_rollouts
from rlft.reward_models.folder import ScorerError
from rlft.reward_models.plugin import scorer_reward
from rlft.reward_models.scorer import Scorer
from rlft.rewards import RewardError
from rlft.rewards.personal import rouge, think_format
from rlft.trainers.prlm_rewards import prlm_rewards, weights_of
from rlft.trainers.prlm_terms import advantage_terms, variance_shares
from tests.trainers.conftest import parity
from tests.trainers.prlm_runs import SAID, scripted, silent, training_rows, write_scorer

Arguments = Callable[..., dict[str, Any]]
NAMES = ["rouge", "think_format", "personalization"]


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scorer(tmp_path_factory.mktemp("blind"))


@pytest.fixture(scope="module")
def aware(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scorer(tmp_path_factory.mktemp("aware"), "aware")


def trained(trainer: GRPOTrainer) -> GRPOTrainer:
    trainer.train()
    return trainer


def weights(trainer: GRPOTrainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def losses(trainer: GRPOTrainer) -> list[tuple[float, float]]:
    return [(row["loss"], row["grad_norm"]) for row in trainer.state.log_history if "loss" in row]


def recorded(trainer: GRPOTrainer) -> list[RolloutRow]:
    return list(read_rollouts(Path(trainer.args.output_dir) / "record"))


@pytest.mark.parametrize("how", ["sum_then_normalize", "normalize_then_sum"])
def test_constant_credit_is_trl_bit_for_bit(
    how: str, random_model: Path, blind: Path, grpo_arguments: Arguments
) -> None:
    shared = grpo_arguments(max_steps=3, num_iterations=2, max_completion_length=64, multi_objective_aggregation=how)
    answer = {"key": "title"}
    rewards = [rouge(**answer), think_format(), scorer_reward(Scorer.load(blind), **answer)]
    plain = GRPOTrainer(
        str(random_model),
        rewards,
        GRPOConfig(reward_weights=[1.0, 0.1, 0.1], **shared),
        training_rows(),
        rollout_func=scripted,
    )
    plain_losses, plain_weights = losses(trained(plain)), weights(plain)
    config = PrLMConfig(scorer=str(blind), answer_key="title", **shared)
    ours = PrLMTrainer(str(random_model), args=config, train_dataset=training_rows(), rollout_func=scripted)
    assert losses(trained(ours)) == plain_losses
    assert any(loss != 0 for loss, _ in plain_losses)
    assert all(map(torch.equal, weights(ours), plain_weights))

    rows = recorded(ours)[:16]
    rewards_NF = torch.tensor(
        [[torch.nan if row.rewards[n] is None else row.rewards[n] for n in NAMES] for row in rows]
    )
    terms_NF = advantage_terms(rewards_NF, torch.tensor([1.0, 0.1, 0.1]), 4, how)
    assert terms_NF.sum(1).tolist() == pytest.approx([row.advantage for row in rows], abs=1e-3)
    logged = ours.state.log_history[0]
    for name, share in variance_shares(terms_NF, NAMES).items():
        assert logged[f"prlm/variance_share/{name}"] == pytest.approx(share, abs=1e-3)


def test_thinking_and_answers_are_logged(random_model: Path, grpo_arguments: Arguments) -> None:
    config = PrLMConfig(
        answer_key="title", personalization_weight=0, **grpo_arguments(max_steps=1, max_completion_length=64)
    )
    trainer = PrLMTrainer(str(random_model), args=config, train_dataset=training_rows(), rollout_func=scripted)
    logged = trained(trainer).state.log_history[0]
    said = [i % len(SAID) for i in range(16)]
    assert logged["prlm/parseable"] == sum(place in (0, 1, 4, 5) for place in said) / 16
    words = [1, 3, 0, 3, 0, 0, 1]
    assert logged["prlm/thinking_words"] == sum(words[place] for place in said) / 16
    assert {name for name in logged if "variance_share" in name} == {
        f"prlm/variance_share/{name}" for name in ("rouge", "think_format", "covariance")
    }


def test_equal_rewards_give_no_advantage(random_model: Path, blind: Path, grpo_arguments: Arguments) -> None:
    config = PrLMConfig(scorer=str(blind), answer_key="title", **grpo_arguments(max_steps=1, max_completion_length=64))
    trainer = PrLMTrainer(str(random_model), args=config, train_dataset=training_rows(), rollout_func=silent)
    before = weights(trainer)
    rows = recorded(trained(trainer))
    assert {row.rewards["rouge"] for row in rows} == {3.0}
    assert all(row.reward == pytest.approx(3.1 + 0.1 * row.rewards["personalization"]) for row in rows)
    assert {row.advantage for row in rows} == {0.0}
    assert all(map(torch.equal, weights(trainer), before))
    assert not any("variance_share" in name for name in trainer.state.log_history[0])


@pytest.mark.parametrize("no_answer", [None, -10.0])
def test_a_placeholder_is_never_shown_to_the_reward_model(
    no_answer: float | None, random_model: Path, blind: Path, grpo_arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    score = Scorer.score_what_fits
    monkeypatch.setattr(
        Scorer,
        "score_what_fits",
        lambda self, queries, profiles, answers: (asked.extend(answers), score(self, queries, profiles, answers))[1],
    )
    arguments = grpo_arguments(max_steps=1, max_completion_length=64)
    config = PrLMConfig(scorer=str(blind), answer_key="title", no_answer=no_answer, **arguments)
    trainer = PrLMTrainer(str(random_model), args=config, train_dataset=training_rows(), rollout_func=scripted)
    rows = recorded(trained(trainer))
    assert set(asked) == {"red sun", "red", "blue sun", "sun"}
    for place, row in enumerate(rows):
        if place % len(SAID) in (2, 3, 6):
            assert row.rewards["personalization"] == no_answer
            assert row.rewards["rouge"] == 0.0
        else:
            assert 0 < row.rewards["personalization"] < 1


def test_shear_is_one_flag_away(random_model: Path, blind: Path, grpo_arguments: Arguments) -> None:
    arguments = grpo_arguments(max_steps=1, max_completion_length=64, correct_threshold=2.0)
    config = PrLMConfig(credit="shear", window=4, stride=2, scorer=str(blind), answer_key="title", **arguments)
    trainer = PrLMTrainer(str(random_model), args=config, train_dataset=training_rows(), rollout_func=scripted)
    logged = trained(trainer).state.log_history[0]
    assert logged["shear/weight_std"] > 0
    assert logged["prlm/parseable"] > 0


def test_the_run_keeps_its_reward_model(random_model: Path, aware: Path, grpo_arguments: Arguments) -> None:
    config = PrLMConfig(scorer=str(aware), **grpo_arguments(max_steps=1))
    (aware / "checkpoint-1").mkdir(exist_ok=True)
    trained(PrLMTrainer(str(random_model), args=config, train_dataset=training_rows()))
    kept = Path(config.output_dir) / "scorer"
    assert not (kept / "checkpoint-1").exists()
    row = (["ask 1"], [[{"text": "text 1", "target": "target 1", "date": None}]], ["red"])
    assert torch.equal(Scorer.load(kept, task="toy").score(*row), Scorer.load(aware).score(*row))


def test_the_caller_s_configuration_is_left_alone(random_model: Path, blind: Path, grpo_arguments: Arguments) -> None:
    config = PrLMConfig(scorer=str(blind), **grpo_arguments())
    first, second = (PrLMTrainer(str(random_model), args=config, train_dataset=training_rows()) for _ in range(2))
    assert config.reward_weights is None
    assert first.args.reward_weights == second.args.reward_weights == [1.0, 0.1, 0.1]


def test_own_rewards_have_the_weight_of_their_name(blind: Path, grpo_arguments: Arguments) -> None:
    config = PrLMConfig(scorer=str(blind), rouge_weight=0.5, **grpo_arguments())
    assert weights_of([parity, rouge(key=None), think_format()], config) == [1.0, 0.5, 0.1]
    assert weights_of(prlm_rewards(config), config) == [0.5, 0.1, 0.1]
    config.reward_weights = [2.0, 3.0]
    assert weights_of([parity, rouge(key=None)], config) == [2.0, 3.0]
    with pytest.raises(ValueError, match=r"reward_weights=\[2.0, 3.0\] for 1 reward_funcs"):
        weights_of([parity], config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rouge_weight": -1.0}, "rouge_weight=-1.0 must be finite and at least 0"),
        ({"format_weight": float("nan")}, "format_weight=nan"),
        ({"think_end": ""}, "think_end='' closes nothing"),
        ({"no_answer": float("inf")}, "no_answer=inf"),
        ({"drift_steps": -1}, "drift_steps=-1 must be at least 0"),
        ({"drift_threshold": 60.0}, r"drift_threshold=60.0 in \[0, 1\]"),
        ({"window": 1}, "window=1, stride=25"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrLMConfig(output_dir="x", **options)


NOWHERE = "/no/such/model"
"""Loading it fails with another error: what is refused below is refused earlier."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"personalization_weight=0.1 and no reward model.*--personalization_weight 0"),
        ({"personalization_weight": 0, "think_end": None}, r"format_weight=0.1 rewards the tag.*--format_weight 0"),
        ({"personalization_weight": 0, "reward_weights": [1.0, 0.1]}, r"--rouge_weight, --format_weight"),
        ({"personalization_weight": 0, "rouge_tokens": "words"}, "tokens='words'"),
        ({"scorer": "/no/scorer"}, "/no/scorer is no folder"),
    ],
)
def test_rewards_that_cannot_be_computed(options: dict[str, Any], message: str, grpo_arguments: Arguments) -> None:
    with pytest.raises(ValueError, match=message):
        PrLMTrainer(NOWHERE, args=PrLMConfig(**options, **grpo_arguments()), train_dataset=training_rows())


def without(column: str) -> Dataset:
    return training_rows().remove_columns(column)


def blank(column: str, value: Any) -> Dataset:
    rows = training_rows().to_list()
    rows[3][column] = rows[7][column] = value
    return Dataset.from_list(rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda: without("answer"), "reward 'rouge' requires 'answer'"),
        (lambda: without("query"), "reward 'personalization' requires 'query'"),
        (lambda: without("profile_items"), "train_dataset lacks the column 'profile_items'"),
        (lambda: blank("answer", " "), "train_dataset: 2 of 16 rows have an empty 'answer', the first is row 3"),
        (lambda: blank("query", None), "2 of 16 rows have an empty 'query'"),
    ],
)
def test_rows_that_cannot_be_scored(
    rows: Callable[[], Dataset], message: str, aware: Path, grpo_arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scorer, "load", lambda *args, **kwargs: pytest.fail("the reward model was loaded"))
    config = PrLMConfig(scorer=str(aware), **grpo_arguments())
    with pytest.raises(RewardError, match=message):
        PrLMTrainer(NOWHERE, args=config, train_dataset=rows())
    message = message.replace("train_dataset", r"eval_dataset\['dev'\]")
    with pytest.raises(RewardError, match=message):
        PrLMTrainer(NOWHERE, args=config, train_dataset=training_rows(), eval_dataset={"dev": rows()})


def test_a_blind_reward_model_needs_no_profile(random_model: Path, blind: Path, grpo_arguments: Arguments) -> None:
    config = PrLMConfig(scorer=str(blind), **grpo_arguments())
    PrLMTrainer(str(random_model), args=config, train_dataset=without("profile_items"))


def test_own_rewards_are_checked_too(aware: Path, grpo_arguments: Arguments) -> None:
    config = PrLMConfig(**grpo_arguments())
    with pytest.raises(RewardError, match="requires 'answer'"):
        PrLMTrainer(NOWHERE, rouge(key=None), config, train_dataset=without("answer"))
    config = PrLMConfig(scorer=str(aware), drift_steps=1, **grpo_arguments())
    with pytest.raises(ValueError, match="drift_steps=1 needs rows to ask the policy about: give `fresh`"):
        PrLMTrainer(NOWHERE, args=config, train_dataset=training_rows())
    config = PrLMConfig(drift_steps=1, **grpo_arguments())
    with pytest.raises(ValueError, match="drift_steps=1 checks a reward model, and there is none: set --scorer"):
        PrLMTrainer(NOWHERE, args=config, train_dataset=training_rows())


def test_a_damaged_reward_model_is_refused_first(blind: Path, tmp_path: Path, grpo_arguments: Arguments) -> None:
    (tmp_path / "scorer.json").write_text("{}")
    config = PrLMConfig(scorer=str(tmp_path), **grpo_arguments())
    with pytest.raises(ScorerError, match=r"spec.* is missing"):
        PrLMTrainer(NOWHERE, parity, config, train_dataset=training_rows())


def test_the_options_need_no_torch() -> None:
    code = "import sys, rlft, rlft.trainers.prlm_options as o; print(o.PrLMOptions().credit, 'torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["constant", "False"]
