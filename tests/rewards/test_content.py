"""The reward of content: blind to style, 0 without an answer, and counted."""

from rlft.rewards.content import content
from rlft.rewards.loading import check_columns, load_rewards


def test_content_is_scored_whatever_the_style_and_plan() -> None:
    logged: dict[str, float] = {}
    completions = [
        "[plan] hello bye [/plan] hello pora vadi misa bye",
        [{"role": "assistant", "content": "[plan] note end [/plan] note pora vadi end"}],
        "[plan] pora vadi misa",
        "[/plan] hello bye",
    ]
    scores = content(completions, ["pora vadi misa"] * 4, log_metric=logged.__setitem__)
    assert scores == [1.0, 0.8, 0.0, 0.0]
    assert logged == {"rewards/content/unparseable": 0.25}


def test_it_loads_by_its_spec() -> None:
    (reward,) = load_rewards(["rlft.rewards.content:content"])
    assert reward is content
    check_columns([reward], ["prompt", "answer"])
