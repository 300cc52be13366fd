"""Search metrics against a batch worked by hand, and what is left out where it does not apply."""

from typing import Any

import pytest

from rlft.evaluate.search_metrics import search_metrics
from rlft.rollouts.trajectory import FinishReason, Segment, Trajectory

WORDS = ["<pad>", "paris", "rome", "berlin", "the", "seine", "?"]


def decode(ids: list[int]) -> str:
    return " ".join(WORDS[token] for token in ids)


def act(*ids: int) -> Segment:
    return Segment(list(ids), trainable=True, label="act", logprobs=[-0.1] * len(ids))


def shown(*ids: int) -> Segment:
    return Segment(list(ids), trainable=False, label="search")


def trajectory(finish: FinishReason, *segments: Segment, **fields: Any) -> Trajectory:
    return Trajectory([6], list(segments), finish, fields)


ROWS: list[dict[str, Any]] = [
    {"golden_answers": ["Paris"], "hops": [{"passage_id": "a"}, {"passage_id": "b"}]},
    {"golden_answers": ["Rome"], "gold_titles": ["New_York", "Rome"]},
    {"golden_answers": ["Berlin"]},
    {"golden_answers": ["Berlin"], "hops": []},
]
TRAJECTORIES = [
    # two searches, one of two gold passages, the right answer shown
    trajectory(
        FinishReason.STOP,
        act(1, 1),
        shown(4, 5, 1),
        act(1),
        shown(2),
        act(1),
        queries=["q", "r"],
        facts=["paris", ""],
        passage_ids=[["x", "a"], ["x"]],
        answer="the Paris",
        answer_cut=False,
    ),
    # the answer comes from memory: a fact holds it, nothing shown does; titles match but for case and underscore
    trajectory(
        FinishReason.REPEAT,
        act(2),
        shown(3, 3),
        queries=["q"],
        facts=["in rome it is"],
        passage_ids=[["z"]],
        passage_titles=[["new york"]],
        answer="in Rome it rained",
        answer_cut=True,
    ),
    # cut before its answer
    trajectory(FinishReason.LENGTH, act(2), queries=[], facts=[], passage_ids=[], answer=None, answer_cut=None),
    trajectory(
        FinishReason.HOPS, act(2), shown(3), queries=["q"], facts=[], passage_ids=[[]], answer="Rome", answer_cut=False
    ),
]


def test_a_batch_worked_by_hand() -> None:
    metrics = search_metrics(ROWS, TRAJECTORIES, decode)
    assert metrics == pytest.approx(
        {
            "em": 1 / 4,
            "f1": (1 + 2 * 1 / (4 + 1)) / 4,
            "cover": 2 / 4,
            "answer_cut_rate": 1 / 3,
            "retrieval_recall": (1 / 2 + 1 / 2) / 2,  # the last two have no gold passages
            "answer_recall": 2 / 4,  # paris and berlin were shown, rome was not
            "unsupported_fact_rate": 1 / 2,  # the last two have no facts
            "hops": (2 + 1 + 0 + 1) / 4,
            "forced_stop_rate": 2 / 4,
            "length_rate": 1 / 4,
            "empty_fact_rate": (1 / 2 + 0) / 2,
            "tokens_trained": (4 + 1 + 1 + 1) / 4,
            "tokens_fed": (4 + 2 + 0 + 1) / 4,
            "finish/stop": 1 / 4,
            "finish/hops": 1 / 4,
            "finish/repeat": 1 / 4,
            "finish/malformed": 0,
            "finish/length": 1 / 4,
        }
    )


def test_order_does_not_matter_and_copies_change_nothing() -> None:
    metrics = search_metrics(ROWS, TRAJECTORIES, decode)
    assert search_metrics(ROWS[::-1], TRAJECTORIES[::-1], decode) == pytest.approx(metrics)
    assert search_metrics(ROWS * 3, TRAJECTORIES * 3, decode) == pytest.approx(metrics)


def test_what_does_not_apply_is_left_out() -> None:
    bare = search_metrics([{"golden_answers": ["x"]}], [trajectory(FinishReason.STOP, act(1))], decode)
    assert bare == pytest.approx(
        dict.fromkeys(bare, 0) | {"tokens_trained": 1, "finish/stop": 1}  # nothing but shares of ends and tokens
    )
    assert not {"em", "retrieval_recall", "answer_recall", "hops", "empty_fact_rate"} & bare.keys()
    assert not {"answer_recall", "unsupported_fact_rate"} & search_metrics(ROWS, TRAJECTORIES).keys()


def test_open_trajectories_have_no_answer_metrics() -> None:
    left_open = [
        trajectory(one.finish, *one.segments, **{k: v for k, v in one.fields.items() if not k.startswith("answer")})
        for one in TRAJECTORIES
    ]
    assert not {"em", "f1", "cover", "answer_cut_rate"} & search_metrics(ROWS, left_open).keys()


def test_a_batch_that_was_cut_throughout_scores_nothing() -> None:
    assert search_metrics(ROWS[2:3], TRAJECTORIES[2:3])["em"] == 0
    assert search_metrics(ROWS[2:3], TRAJECTORIES[2:3])["length_rate"] == 1


def test_branches_count_among_the_tokens() -> None:
    branch = Trajectory([1, 1, 1], [act(1, 2)], FinishReason.STOP)
    one = Trajectory([6], [act(1), shown(2)], FinishReason.STOP, {}, [branch, branch])
    metrics = search_metrics(ROWS[:1], [one])
    assert (metrics["tokens_trained"], metrics["tokens_fed"]) == (5, 1)


def test_ids_are_compared_as_they_are() -> None:
    row = {"golden_answers": ["x"], "hops": [{"passage_id": "new_york"}]}
    one = trajectory(FinishReason.STOP, queries=["q"], passage_ids=[["New York"]])
    assert search_metrics([row], [one])["retrieval_recall"] == 0


@pytest.mark.parametrize(("rows", "trajectories"), [([], []), (ROWS, TRAJECTORIES[:2])])
def test_unequal_or_empty_batches_are_refused(rows: list[Any], trajectories: list[Trajectory]) -> None:
    with pytest.raises(ValueError, match="one trajectory is needed for each row"):
        search_metrics(rows, trajectories)
