"""Samples as one endless stream, cut into blocks: the form in which pre-training and continual training read text.

STOC (arXiv 2605.10640), step 6: each pass over the samples has an order of its own; they are joined, each closed by the
end token, and cut into blocks of equal length. A block may run from one pass into the next, so that no token is left
out and every pass holds the same share of replay.

Shapes: N tokens of a pass, L tokens of a block.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

IGNORED = -100


class Stream:
    """Block i of the stream is computed when it is asked for, so that many passes take the memory of one.

    Args:
        samples: rows with `ids`, and perhaps `labels`, -100 where nothing is learnt; without, all ids are labels.
        end_id: closes each sample that does not end with it.
        length: L.
        seed: of the orders.
        learn_after_end: False ignores the first token of every sample and every token after an end token, which
            nothing before it can tell (as the released code does).

    Raises:
        ValueError: for no samples, an empty one, labels of another length, or L below 2.
    """

    def __init__(
        self,
        samples: Sequence[Mapping[str, Any]],
        *,
        end_id: int,
        length: int,
        seed: int,
        learn_after_end: bool = True,
    ):
        if not samples or length < 2:
            raise ValueError(f"{len(samples)} samples in blocks of {length}: at least 1 and at least 2 are needed.")
        pairs = [_closed(sample, end_id) for sample in samples]
        self.ids_N = np.concatenate([ids for ids, _ in pairs])
        self.labels_N = np.concatenate([labels for _, labels in pairs])
        sizes = np.array([len(ids) for ids, _ in pairs])
        self.starts = np.cumsum(sizes) - sizes
        self.ends = self.starts + sizes
        if not learn_after_end:
            self.labels_N[self.starts] = IGNORED
            self.labels_N[1:][self.ids_N[:-1] == end_id] = IGNORED
        self.length, self.seed = length, seed
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def blocks(self, passes: float) -> int:
        """Whole blocks in so many passes, at least 1."""
        return max(1, int(passes * len(self.ids_N) / self.length))

    def block(self, number: int) -> tuple[list[int], list[int]]:
        """Ids and labels of one block, (L,) each."""
        places = np.arange(number * self.length, (number + 1) * self.length)
        passes, offsets = np.divmod(places, len(self.ids_N))
        taken = np.concatenate([self._places(one)[offsets[passes == one]] for one in np.unique(passes)])
        return self.ids_N[taken].tolist(), self.labels_N[taken].tolist()

    def _places(self, number: int) -> np.ndarray:
        """(N,) where in `ids_N` the tokens of a pass stand, one after the other; of the last pass asked for."""
        if self._order[0] != number:
            order = np.random.default_rng([self.seed, number]).permutation(len(self.starts))
            sizes = (self.ends - self.starts)[order]
            first = np.repeat(self.starts[order] - (np.cumsum(sizes) - sizes), sizes)
            self._order = (number, first + np.arange(len(self.ids_N)))
        return self._order[1]

    def dataset(self, blocks: int) -> Dataset:
        """The first blocks as rows `{input_ids, labels}`, in order, for a trainer that reads them in order."""

        def rows(batch: dict[str, list[int]]) -> dict[str, list[list[int]]]:
            found = [self.block(number) for number in batch["block"]]
            return {"input_ids": [ids for ids, _ in found], "labels": [labels for _, labels in found]}

        return Dataset.from_dict({"block": range(blocks)}).with_transform(rows)


def _closed(sample: Mapping[str, Any], end_id: int) -> tuple[np.ndarray, np.ndarray]:
    ids = list(sample["ids"])
    labels = list(sample.get("labels") or ids)
    if not ids or len(ids) != len(labels):
        raise ValueError(f"sample {sample.get('id')!r} has {len(ids)} ids and {len(labels)} labels.")
    if ids[-1] != end_id:
        ids, labels = [*ids, end_id], [*labels, end_id]
    return np.array(ids, np.int64), np.array(labels, np.int64)
