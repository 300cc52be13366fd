"""The outer loop: when it ends, which questions a round takes, how they are cut into shards."""

from collections import Counter

import pytest

from rlft.em.rounds import best_round, questions_of, run_rounds, shards


def rounds_of(values: list[float], **changes: object) -> list[dict[str, float]]:
    settings = {"rounds": len(values) - 1, "patience": 1, "metric": "em"} | changes
    return run_rounds(lambda number: {"em": values[number]}, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "patience", "done"),
    [
        ([0.1, 0.5, 0.4, 0.9], 1, 3),
        ([0.1, 0.5, 0.4, 0.9], 2, 4),
        ([0.1, 0.5, 0.4, 0.3, 0.9], 2, 4),
        ([0.5, 0.1, 0.1, 0.1], 0, 4),
        ([0.5, 0.5, 0.9], 1, 2),
    ],
)
def test_rounds_end_when_the_metric_stops_rising(values: list[float], patience: int, done: int) -> None:
    assert len(rounds_of(values, patience=patience)) == done


def test_a_loss_may_choose_the_round() -> None:
    assert len(rounds_of([0.9, 0.5, 0.6], greater_is_better=False)) == 3
    assert best_round([{"em": 0.9}, {"em": 0.5}, {"em": 0.6}], "em", greater_is_better=False) == 1


def test_of_equal_rounds_the_first_is_best() -> None:
    assert best_round([{"em": 0.5}, {"em": 0.9}, {"em": 0.9}], "em") == 1


def test_a_missing_metric_is_named() -> None:
    with pytest.raises(ValueError, match="no dev metric 'f1', only em; set --metric_for_best_model"):
        rounds_of([0.5], metric="f1")


def test_every_question_comes_once_before_any_comes_twice() -> None:
    taken = [questions_of(number, 10, 4, seed=3) for number in range(1, 6)]
    assert [len(chosen) for chosen in taken[:2]] == [4, 4]
    assert len({*taken[0], *taken[1]}) == 8
    counts = Counter(index for chosen in taken for index in chosen)
    assert set(counts) == set(range(10))
    assert max(counts.values()) <= 2
    assert all(len(set(chosen)) == len(chosen) for chosen in taken)
    assert taken == [questions_of(number, 10, 4, seed=3) for number in range(1, 6)]
    assert taken != [questions_of(number, 10, 4, seed=4) for number in range(1, 6)]


@pytest.mark.parametrize("per_round", [0, 10, 25])
def test_all_questions_in_a_new_order_each_round(per_round: int) -> None:
    first, second = (questions_of(number, 10, per_round, seed=0) for number in (1, 2))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shards_do_not_depend_on_the_number_of_processes(world: int) -> None:
    found = sorted(shard for rank in range(world) for shard in shards(range(10), 4, rank, world))
    assert found == [(0, range(0, 4)), (1, range(4, 8)), (2, range(8, 10))]
