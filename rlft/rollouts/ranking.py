"""Lists of passage numbers such as `[2] > [1]`, as a model writes them: counted from 1, often untidy."""

import re


def parse_ranking(text: str, count: int) -> list[int]:
    """The passages that `text` names, best first.

    Args:
        text: what the model wrote. Numbers in brackets count; if there are none, bare numbers do.
        count: how many passages it could choose from.

    Returns:
        Places from 0, each once: number n as printed is place n - 1. Numbers that stand for no passage, and
        repetitions, are left out; empty if nothing could be read.
    """
    numbers = re.findall(r"\[\s*(\d+)\s*\]", text, re.ASCII) or re.findall(r"\d+", text, re.ASCII)
    places = [int(number) - 1 for number in numbers if len(number) < 10]
    return [place for place in dict.fromkeys(places) if 0 <= place < count]


def filled_up(order: list[int], count: int) -> list[int]:
    """`order` and after it the places below `count` that it lacks, in their own order."""
    chosen = set(order)
    return order + [place for place in range(count) if place not in chosen]
