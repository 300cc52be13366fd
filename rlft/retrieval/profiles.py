"""Which of a user's past items a prompt shows: none, random, the newest, or the nearest to the query.

Each row is searched in its own profile alone, so that nothing of another user is ever shown. The document of an item
is its target as the title and its long field as the text; the query is the row's bare query.
PrLM, arXiv 2508.07342. Shapes: N items of a profile.
"""

import inspect
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from rlft.data.lamp_profiles import date_key
from rlft.plugins import PluginError, resolve
from rlft.retrieval.bm25 import BM25Retriever
from rlft.retrieval.extras import optional
from rlft.retrieval.passage import Passage, RetrievalError

Row = Mapping[str, Any]
Item = dict[str, Any]

Order = Callable[[Sequence[Row], int], list[list[int]]]
"""(rows, k) -> for each row at most k places in its profile, from 0, best first."""

CHOOSERS = {name: f"rlft.retrieval.profiles:{name}_order" for name in ("none", "random", "recency", "bm25", "dense")}


class ProfileChooser:
    """Chooses past items for rows.

    Args:
        order: finds the places.
        name: for messages and reports.
    """

    def __init__(self, order: Order, name: str) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        """Over all calls with k above 0: `rows`, how many had an `empty profile`, and how many got `fewer than k`."""
        self._order = order

    def choose(self, rows: Sequence[Row], k: int) -> list[list[Item]]:
        """The items shown for each row.

        Args:
            rows: with `id`, `query` and `profile`, a list of `{id, text, target, date}`.
            k: items wanted.

        Returns:
            For each row at most k items of its own profile, best first; all of them where there are fewer, none from
            an empty profile. The ready-made choosers' lists are nested: those of a smaller k are their beginnings.

        Raises:
            RetrievalError: if k is negative, or a row does not have what the chooser goes by (its id is named), or a
                chooser of your own gives anything but different places in the profile.
        """
        if k < 0:
            raise RetrievalError(f"k is {k}; the number of past items shown is at least 0")
        if k == 0:
            return [[] for _ in rows]
        filled = [row for row in rows if row["profile"]]
        places = self._order(filled, k) if filled else []
        if len(places) != len(filled):
            raise RetrievalError(f"profile chooser {self.name!r} gave {len(places)} lists for {len(filled)} rows")
        found = iter([self._items(row, of_row, k) for row, of_row in zip(filled, places, strict=True)])
        chosen = [next(found) if row["profile"] else [] for row in rows]
        self.counts["rows"] += len(rows)
        self.counts["empty profile"] += len(rows) - len(filled)
        self.counts["fewer than k"] += sum(len(items) < k for items in chosen)
        return chosen

    def _items(self, row: Row, places: Sequence[int], k: int) -> list[Item]:
        among = range(len(row["profile"]))
        if not len(set(places)) == len(places) <= k or any(place not in among for place in places):
            raise RetrievalError(
                f"profile chooser {self.name!r} gave {list(places)} for row {row['id']!r}: not at most {k} different "
                f"places among its {len(among)} items, counted from 0"
            )
        return [row["profile"][place] for place in places]


def profile_chooser(spec: str | Callable[..., Order], seed: int = 0) -> ProfileChooser:
    """Make the chooser that a spec names.

    Args:
        spec: `none`, `random`, `recency`, `bm25` (settings: those of `BM25Retriever`), `dense(model="...")`, or a
            function of your own that takes settings and returns an `Order`: `package.module:attr` or
            `path/to/file.py:attr`, with settings in brackets where wanted.
        seed: given to a chooser that takes one and has none in its spec.

    Raises:
        rlft.plugins.PluginError: if the spec does not resolve, or its settings do not fit.
        RetrievalError: if the chooser refuses its settings.
    """
    make = resolve(spec, kind="profile chooser", names=CHOOSERS)
    bound = make if isinstance(make, partial) else partial(make)
    takes = inspect.signature(bound.func)
    settings = ({"seed": seed} if "seed" in takes.parameters else {}) | bound.keywords
    try:
        takes.bind(**settings)
    except TypeError as error:
        raise PluginError(
            f"profile chooser {spec!r}: {error}. Settings stand in brackets; this one takes: "
            f"{', '.join(takes.parameters) or 'none'}."
        ) from error
    name = spec if isinstance(spec, str) else getattr(spec, "__name__", str(spec))
    order = bound.func(**settings)
    if not callable(order):
        raise PluginError(f"profile chooser {name!r} gives a {type(order).__name__}, not a function of (rows, k)")
    return ProfileChooser(order, name)


def none_order() -> Order:
    """No items: the row to compare with."""
    return lambda rows, k: [[] for _ in rows]


def random_order(seed: int) -> Order:
    """Items drawn without replacement, each row's by the seed and its own id, whatever rows stand beside it."""

    def order(rows: Sequence[Row], k: int) -> list[list[int]]:
        drawn = []
        for row in rows:
            places = list(range(len(row["profile"])))
            random.Random(f"{seed}/{row['id']}").shuffle(places)
            drawn.append(places[:k])
        return drawn

    return order


def recency_order() -> Order:
    """The newest items first; those of one date in the profile's order.

    The function that is returned raises `RetrievalError` on an item whose date is missing or not numbers joined by
    `-` (`2015`, `2015-03-01`).
    """

    def order(rows: Sequence[Row], k: int) -> list[list[int]]:
        dates = [[_date(item, row) for item in row["profile"]] for row in rows]
        return [sorted(range(len(of_row)), key=of_row.__getitem__, reverse=True)[:k] for of_row in dates]

    return order


def bm25_order(**settings: Any) -> Order:
    """By BM25 over the row's own profile. Items that share no word with the query follow in the profile's order.

    Args:
        **settings: `k1`, `b`, `title_weight`, `stopwords` of `BM25Retriever`.
    """

    def order(rows: Sequence[Row], k: int) -> list[list[int]]:
        ranked = []
        for row in rows:
            documents = [_document(place, item) for place, item in enumerate(row["profile"])]
            worded = [document for document in documents if re.search(r"\w", document.contents)]
            hits = BM25Retriever.over(worded, **settings).search([row["query"]], k)[0] if worded else []
            best = dict.fromkeys(int(hit.id) for hit in hits)
            rest = (place for place in range(len(documents)) if place not in best)
            ranked.append([*best, *rest][:k])
        return ranked

    return order


def dense_order(
    model: str,
    query_prefix: str = "",
    passage_prefix: str = "",
    batch_size: int = 64,
    device: str | None = None,
) -> Order:
    """By cosine of sentence embeddings; equal ones in the profile's order. Packages: `pip install "rlft[dense]"`.

    Args:
        model: name or folder of a sentence-transformers model, loaded here, once.
        query_prefix: put before every query (E5: `"query: "`).
        passage_prefix: put before every item (E5: `"passage: "`).
        batch_size: texts that the model takes at once.
        device: where it runs; by default as sentence-transformers chooses.

    Raises:
        RetrievalError: if the packages are missing.
    """
    encoder = optional("sentence_transformers", "dense").SentenceTransformer(model, device=device)

    def encode(texts: Sequence[str], prefix: str) -> dict[str, np.ndarray]:
        different = list(dict.fromkeys(texts))
        embeddings_TH = encoder.encode(
            different, prompt=prefix, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return dict(zip(different, np.asarray(embeddings_TH, dtype=np.float32), strict=True))

    def order(rows: Sequence[Row], k: int) -> list[list[int]]:
        ranked = []
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            documents = [[_document(0, item).contents for item in row["profile"]] for row in some]
            items = encode([text for of_row in documents for text in of_row], passage_prefix)
            queries = encode([row["query"] for row in some], query_prefix)
            for row, of_row in zip(some, documents, strict=True):
                scores_N = np.stack([items[text] for text in of_row]) @ queries[row["query"]]
                ranked.append(np.argsort(-scores_N, kind="stable")[:k].tolist())
        return ranked

    return order


_ROWS = 64
"""Rows whose embeddings are in memory at once."""


def _document(place: int, item: Item) -> Passage:
    title, text = item.get("target") or "", item["text"]
    return Passage(str(place), title, text, 0.0) if text.strip() else Passage(str(place), "", title, 0.0)


def _date(item: Item, row: Row) -> tuple[int, ...]:
    try:
        return date_key(str(item["date"]))
    except ValueError as error:
        raise RetrievalError(
            f"row {row['id']!r}, item {item['id']!r}: its date is {item['date']!r}, and recency needs numbers joined "
            "by '-'. Items of LaMP's user split have no dates: read the time split, or choose by random, bm25 or dense."
        ) from error
