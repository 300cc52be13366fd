"""The search that demonstrations are made with: BM25 over a few hundred passages, the title counted a second time.

Without the title a bag of words cannot tell "ann was mentored by bob" from "bob was mentored by ann". Rollouts search
with a retriever of the project; this one stands in the lowest room of the house, needs no index on disk, and is built
anew for each world of the warm-up.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

K1, B = 0.9, 0.4


class Lookup:
    """BM25 (k1 0.9, b 0.4) over passages `{id, title, text}`; `lookup(queries, k)` gives their texts, best first."""

    def __init__(self, passages: Sequence[Mapping[str, str]]) -> None:
        self._texts = [passage["text"] for passage in passages]
        bags = [Counter(f"{passage['title']} {passage['text']}".split()) for passage in passages]
        lengths = [bag.total() for bag in bags]
        mean = sum(lengths) / len(lengths)
        postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, (bag, length) in enumerate(zip(bags, lengths, strict=True)):
            for word, count in bag.items():
                saturated = count * (K1 + 1) / (count + K1 * (1 - B + B * length / mean))
                postings[word].append((place, saturated))
        self._postings = {
            word: [(place, _idf(len(found), len(bags)) * value) for place, value in found]
            for word, found in postings.items()
        }

    def __call__(self, queries: Sequence[str], k: int) -> list[list[str]]:
        """Texts of the `k` best passages for each query; ties go to the earlier passage."""
        return [self._search(query, k) for query in queries]

    def _search(self, query: str, k: int) -> list[str]:
        scores: dict[int, float] = defaultdict(float)
        for word in query.split():
            for place, value in self._postings.get(word, ()):
                scores[place] += value
        best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]
        return [self._texts[place] for place, _ in best]


def _idf(found: int, total: int) -> float:
    return math.log(1 + (total - found + 0.5) / (found + 0.5))
