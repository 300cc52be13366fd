import pytest

from rlft.rollouts.ranking import filled_up, parse_ranking


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("[2] > [1]", [1, 0]),
        ("[1]", [0]),
        ("The best are [3], then [ 1 ].", [2, 0]),
        ("2 > 1", [1, 0]),
        ("[2]>[2]>[9]>[0]>[1]", [1, 0]),
        ("In 2024 I would say [1]", [0]),
        ("[99999999999999999999] [3]", [2]),
        ("9" * 5000, []),
        ("none of them", []),
        ("[-1] > [1.5]", [0, 4]),
        ("[٣]", []),
        ("", []),
    ],
)
def test_reads_what_can_be_read(text: str, places: list[int]) -> None:
    assert parse_ranking(text, 5) == places


@pytest.mark.parametrize("printed", range(1, 6))
def test_printed_numbers_count_from_one(printed: int) -> None:
    assert parse_ranking(f"[{printed}]", 5) == [printed - 1]


def test_filling_up_keeps_the_order_and_gives_a_permutation() -> None:
    assert filled_up([3, 0], 5) == [3, 0, 1, 2, 4]
    assert filled_up([], 3) == [0, 1, 2]
    assert filled_up([2, 1, 0], 3) == [2, 1, 0]
