"""What the seeds of a corpus are, before anything is credited to the attention that chose them."""

from collections import Counter
from collections.abc import Sequence

from rlft.replay.seeds import Seed


def distinct_seeds(seeds: Sequence[Seed]) -> int:
    """Number of different token sequences among the seeds; replay is as broad as its prompts differ."""
    return len({seed.ids for seed in seeds})


def start_shares(seeds: Sequence[Seed]) -> dict[int, float]:
    """Share of seeds by the token they start at, in order of position; the shares sum to 1.

    A score that follows the text spreads over the positions; one that follows the place piles up on a few.

    Raises:
        ValueError: for no seeds.
    """
    if not seeds:
        raise ValueError("there are no seeds to audit.")
    counts = Counter(seed.start for seed in seeds)
    return {start: counts[start] / len(seeds) for start in sorted(counts)}
