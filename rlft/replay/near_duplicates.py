"""Near-duplicates among many token sequences: MinHash finds candidates, the Jaccard index of the shingles decides.

MinHash and its index (LSH) are datasketch's. Broder, "On the resemblance and containment of documents" (1997).
"""

from collections.abc import Sequence

import numpy as np
from datasketch import MinHash, MinHashLSH

from rlft.replay.ngrams import Hashes, shingles

_FOUND = 0.99  # least chance that a pair at the threshold becomes a candidate; likelier pairs are found more surely


def near_duplicates(
    sequences: Sequence[Sequence[int]], *, threshold: float, shingle: int, permutations: int
) -> list[int | None]:
    """For each sequence the earlier one that it nearly repeats.

    A sequence that repeats another is not compared with later ones, so every duplicate points at one that is kept.

    Args:
        sequences: token ids.
        threshold: Jaccard index of the two sets of shingles from which on they are duplicates, in (0, 1].
        shingle: tokens of a shingle.
        permutations: of MinHash; more of them miss fewer pairs.

    Returns:
        A place in `sequences` for each duplicate, None for the rest.
    """
    index = MinHashLSH(num_perm=permutations, params=_bands(threshold, permutations))
    blank = MinHash(num_perm=permutations, hashfunc=int)
    kept: dict[int, Hashes] = {}
    found: list[int | None] = []
    for place, sequence in enumerate(sequences):
        runs = shingles(sequence, shingle)
        sketch = blank.copy()
        sketch.update_batch((runs >> np.uint64(32)).tolist())
        alike = (other for other in sorted(index.query(sketch)) if jaccard(runs, kept[other]) >= threshold)
        found.append(next(alike, None))
        if found[-1] is None:
            kept[place] = runs
            index.insert(place, sketch)
    return found


def _bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Number of bands and values in a band: the longest bands, which give the fewest false candidates, that find."""
    for values in range(permutations // 2, 1, -1):
        bands = permutations // values
        if 1 - (1 - threshold**values) ** bands >= _FOUND:
            return bands, values
    return permutations, 1


def jaccard(a: Hashes, b: Hashes) -> float:
    """Size of the intersection over that of the union, of two arrays without repeats, not both empty."""
    shared = np.intersect1d(a, b, assume_unique=True).size
    return float(shared / (a.size + b.size - shared))
