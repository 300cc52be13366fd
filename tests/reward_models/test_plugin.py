"""The scorer as a reward: sigmoid of the score, from the answer alone, and nothing arbitrary where there is none."""

import pytest
import torch

from rlft.reward_models.folder import ScorerError, write_scorer_json
from rlft.reward_models.plugin import personalization, scorer_reward
from rlft.reward_models.scorer import Scorer
from rlft.rewards import RewardError, check_columns, checked
from tests.reward_models.toy import decoder, item, spec

ITEMS = [item("m0 x")]
WHOLE = "m1 m1 </think> {'title': 'm0 x'}"


@pytest.fixture
def scorer():
    return Scorer(*decoder(), spec(max_length=16))


def rewards(reward, completions, **columns):
    count = len(completions)
    columns = {"query": ["ask about x"] * count, "profile_items": [ITEMS] * count} | columns
    return reward(completions=completions, **columns)


def test_it_is_the_sigmoid_of_the_answers_score(scorer):
    found = rewards(scorer_reward(scorer, key="title"), [WHOLE, "</think>{'title': \"it's { x }\"}"])
    said = scorer.score(["ask about x"] * 2, [ITEMS] * 2, ["m0 x", "it's { x }"])
    assert found == pytest.approx(said.sigmoid().tolist())


@pytest.mark.parametrize(("weight", "expected"), [(1e6, 1.0), (-1e6, 0.0)])
def test_extreme_scores_stay_finite(scorer, weight, expected):
    with torch.no_grad():
        state = scorer.model.model(torch.tensor([scorer.text.encode(("m0 x\n", "ask about x", "m0 x")).ids]))[0][0, -1]
        scorer.model.score.weight.copy_(state * weight)
    assert rewards(scorer_reward(scorer, key="title"), [WHOLE]) == [expected]


def test_the_thinking_is_never_scored(scorer):
    reward = scorer_reward(scorer, key="title")
    quoting = "{'title': 'm3 z'} m2 </think> {'title': 'm0 x'}"
    assert rewards(reward, [quoting]) == rewards(reward, [WHOLE])


def test_conversations_are_read(scorer):
    reward = scorer_reward(scorer, key="title")
    assert rewards(reward, [[{"role": "assistant", "content": WHOLE}]]) == rewards(reward, [WHOLE])


@pytest.mark.parametrize("no_answer", [None, 0.0, -10.0])
def test_no_answer_and_no_room_give_what_was_asked_for_and_are_counted(scorer, no_answer):
    logged = {}
    long = "</think>{'title': 'x x x x x x x x x x x x x'}"
    completions = ["m0 x", "</think> m0 x", long, WHOLE, WHOLE]
    reward = scorer_reward(scorer, key="title", no_answer=no_answer)
    found = rewards(reward, completions, log_metric=logged.__setitem__)
    assert found[:3] == [no_answer] * 3
    assert 0 < found[3] == found[4] < 1
    assert logged == {
        "rewards/personalization/unparseable": 0.4,
        "rewards/personalization/too_long": 0.2,
        "rewards/personalization/known": 0.2,
    }
    assert rewards(reward, completions[:2]) == [no_answer] * 2


def test_an_aware_scorer_needs_the_items_and_a_blind_one_does_not(scorer):
    with pytest.raises(RewardError, match="profile_items"):
        rewards(scorer_reward(scorer, key="title"), [WHOLE], profile_items=None)
    blind = Scorer(*decoder(), spec("blind"))
    reward = scorer_reward(blind, key="title")
    assert rewards(reward, [WHOLE], profile_items=None) == rewards(reward, [WHOLE])


def test_scores_that_are_no_numbers_stop_the_run(scorer):
    with torch.no_grad():
        scorer.model.score.weight.fill_(float("nan"))
    with pytest.raises(RewardError, match="the scorer gave nan"):
        rewards(checked(scorer_reward(scorer, key="title")), [WHOLE], prompts=["p"])


def test_the_folder_is_checked_at_once_and_loaded_at_the_first_batch(scorer, tmp_path, monkeypatch):
    with pytest.raises(ScorerError, match="is no folder"):
        personalization(folder=tmp_path / "scorer", key="title")
    for part in (scorer.model, scorer.text.tokenizer):
        part.save_pretrained(tmp_path / "scorer")
    write_scorer_json(tmp_path / "scorer", scorer.spec, scorer.text.tokenizer, {})
    with pytest.raises(ScorerError, match="not for 'LaMP_4'"):
        personalization(folder=tmp_path / "scorer", key="title", task="LaMP_4")
    reward = personalization(folder=tmp_path / "scorer", key="title", task="toy", device="cpu")
    assert reward.__name__ == "personalization"
    assert rewards(reward, [WHOLE]) == pytest.approx(rewards(scorer_reward(scorer, key="title"), [WHOLE]))
    monkeypatch.setattr(Scorer, "load", None)  # it is loaded once
    rewards(reward, [WHOLE])


def test_columns_that_are_missing_are_found_before_training(scorer):
    reward = scorer_reward(scorer, key="title")
    check_columns([reward], ["prompt", "query", "profile_items"])
    with pytest.raises(RewardError, match="'query'"):
        check_columns([reward], ["prompt", "question"])
