"""Arms differ in what they are named after, and read as many new tokens in a step."""

from typing import Any

import pytest

from rlft.replay.scores import SCORERS
from rlft.trainers.stoc import STOCConfig
from rlft.trainers.stoc_arms import ARMS, arms_of

STRENGTHS = {"ewc": 3.0, "l2": 0.5}


def config(**changes: Any) -> STOCConfig:
    settings: dict[str, Any] = {"output_dir": "unused", "alpha": 0.5, "use_cpu": True, "bf16": False}
    return STOCConfig(**settings | {"per_device_train_batch_size": 24, "max_length": 64, "scorer": "fair"} | changes)


def test_options_of_each_arm() -> None:
    found = arms_of(list(ARMS), config(), STRENGTHS)
    assert list(found) == list(ARMS)
    assert found["stoc"].scorer == "fair"
    for scorer in SCORERS:
        assert (found[scorer].replay, found[scorer].scorer, found[scorer].alpha) == ("self", scorer, 0.5)
    assert found["real"].replay == "real"
    for arm in ("none", "ewc", "l2"):
        assert (found[arm].replay, found[arm].alpha, found[arm].per_device_train_batch_size) == ("none", 1.0, 12)
    assert [found[arm].anchor for arm in ("ewc", "l2", "none")] == ["ewc", "l2", "none"]
    assert [found[arm].anchor_strength for arm in ("ewc", "l2", "none")] == [3.0, 0.5, 0.0]
    assert found["recommended"].replay_breadth == 3


@pytest.mark.parametrize("alpha", [0.5, 0.67, 0.9])
def test_arms_read_as_many_new_tokens_in_a_step(alpha: float) -> None:
    found = arms_of(["none", "released"], config(alpha=alpha), STRENGTHS)
    new = {arm: args.per_device_train_batch_size * args.alpha for arm, args in found.items()}
    assert 0 <= new["none"] - new["released"] < 1


def test_what_is_given_holds_where_the_arm_does_not_say_otherwise() -> None:
    given = config(learning_rate=3e-4, seed=5, stop_at_end=False, max_length=32)
    for args in arms_of(["none", "bos"], given, STRENGTHS).values():
        assert (args.learning_rate, args.seed, args.stop_at_end, args.max_length) == (3e-4, 5, False, 32)
    assert given.scorer == "fair"


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        ([], {}, "names no run"),
        (["nome"], {}, "--arms nome: there are stoc"),
        (["bos", "none", "bos"], {}, "names 'bos' twice"),
        (["bos"], {"alpha": 1.0, "replay": "none"}, "alpha=1.0"),
    ],
)
def test_bad_arms_are_refused(names: list[str], given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arms_of(names, config(**given), STRENGTHS)
