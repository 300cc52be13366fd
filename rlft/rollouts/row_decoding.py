"""Continues a batch of draws with one row of the cache for each distinct context.

Draws of one prompt read it together, and go on together until they choose different tokens: there the row branches. A
row whose draws have all ended is masked, and when half of the rows are such, they leave.

Legend: A draws that go on, B all draws, C columns of the cache, Q columns fed at once, R rows, U rows after a step,
V vocabulary.
"""

from collections.abc import Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlft.rollouts.carried_cache import NOTHING, CarriedCache
from rlft.rollouts.chooser import Chooser
from rlft.rollouts.row_cache import RowCache, takes


def continue_together(
    model: Any,
    prompts: Sequence[Sequence[int]],
    cap_B: np.ndarray,
    chooser: Chooser,
    stop_ids: Set[int],
    carried: CarriedCache | None,
) -> None:
    """Have the chooser choose tokens for every draw until a stop id or the draw's cap.

    Args:
        model: one that `keeps_rows`, in evaluation mode.
        prompts: of the draws.
        cap_B: most tokens of each draw.
        chooser: of these draws; keeps what it chose.
        stop_ids: ids that end a draw.
        carried: contexts read before, and where to keep the new ones; None to keep nothing. The model must allow it
            (`may_have_holes`).
    """
    stops = np.array(sorted(stop_ids), np.int64)
    keys = [tuple(prompt) for prompt in prompts]
    row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(keys))}
    row_A, draw_A = np.array([row_of[prompt] for prompt in keys]), np.arange(len(keys))
    rows = _Rows(model, list(row_of), len(keys), int(cap_B.max()), carried)
    logits_RV = rows.read()
    for step in range(1, int(cap_B.max()) + 1):
        choice_A = chooser.choose(logits_RV, row_A, draw_A)
        goes_on = (cap_B[draw_A] > step) & ~np.isin(choice_A, stops)
        draw_A, row_A, choice_A = draw_A[goes_on], row_A[goes_on], choice_A[goes_on]
        if not len(draw_A):
            break
        row_A = rows.branch(row_A, choice_A)
        logits_RV = rows.feed()
    rows.keep(np.arange(rows.count))


class _Rows:
    """The rows of a batch: their tokens, which columns hold one, and the cache.

    The first columns hold what was carried over, ending together; then come the rest of the prompts, ending together;
    then a column for each step.
    """

    def __init__(
        self, model: Any, prompts: list[tuple[int, ...]], most: int, steps: int, carried: CarriedCache | None
    ) -> None:
        self.model, self.carried, self.count = model, carried, len(prompts)
        found = [carried.find(prompt) if carried else NOTHING for prompt in prompts]
        self.seen = max(one.length for one in found)
        self.filled = self.seen + max(len(prompt) - one.length for prompt, one in zip(prompts, found, strict=True))
        # What is chosen last is never fed.
        columns = self.filled + steps - 1
        # A row for each draw is the most there can be: every row has one at least that goes on or ended there.
        self.ids_RC = np.zeros((most, columns), np.int64)
        self.mask_RC = np.zeros((most, columns), bool)
        for row, (prompt, one) in enumerate(zip(prompts, found, strict=True)):
            for ids, end in ((prompt[: one.length], self.seen), (prompt[one.length :], self.filled)):
                self.ids_RC[row, end - len(ids) : end] = ids
                self.mask_RC[row, end - len(ids) : end] = True
        self.cache = RowCache(model, most, columns)
        if carried and self.seen:
            carried.read(found, self.cache.rows, self.seen)

    def read(self) -> Tensor:
        """Feed what of the prompts was not carried over; logits (R, V) of what comes next."""
        return self._forward(self.filled - self.seen)

    def feed(self) -> Tensor:
        """Feed the last column; logits (R, V) of what comes next, of no meaning where a row's draws have ended."""
        return self._forward(1)

    def branch(self, row_A: np.ndarray, choice_A: np.ndarray) -> np.ndarray:
        """Append the chosen tokens, one row for each distinct context; the row of each draw afterwards."""
        width = choice_A.max() + 1
        pair_U, of_A = np.unique(row_A * width + choice_A, return_inverse=True)
        parent_U, token_U = np.divmod(pair_U, width)
        eldest_U = np.r_[True, parent_U[1:] != parent_U[:-1]]
        if 2 * eldest_U.sum() <= self.count:
            self.keep(np.setdiff1d(np.arange(self.count), parent_U))
            row_U = np.arange(len(parent_U))
            self._select(parent_U, 0)
        else:
            row_U = parent_U.copy()
            row_U[~eldest_U] = self.count + np.arange((~eldest_U).sum())
            self._select(np.r_[np.arange(self.count), parent_U[~eldest_U]], self.count)
        self.ids_RC[row_U, self.filled] = token_U
        self.mask_RC[row_U, self.filled] = True
        self.filled += 1
        return row_U[of_A]

    def keep(self, rows: np.ndarray) -> None:
        """Carry some rows over to later batches."""
        if self.carried:
            shown = slice(0, self.filled)
            self.carried.keep(rows, self.cache.rows, self.ids_RC[rows, shown], self.mask_RC[rows, shown])

    def _select(self, source_U: np.ndarray, unchanged: int) -> None:
        new = slice(unchanged, len(source_U))
        if new.start == new.stop:
            return
        self.ids_RC[new] = self.ids_RC[source_U[new]]
        self.mask_RC[new] = self.mask_RC[source_U[new]]
        for layer in self.cache.rows:
            layer.select(torch.from_numpy(source_U), unchanged)
        self.count = len(source_U)

    def _forward(self, columns: int) -> Tensor:
        device = self.model.device
        mask_RC = self.mask_RC[: self.count, : self.filled]
        extra: dict[str, Any] = {"logits_to_keep": 1} if takes(self.model, "logits_to_keep") else {}
        if takes(self.model, "position_ids"):
            position_RQ = (mask_RC.cumsum(1)[:, -columns:] - 1).clip(0)
            extra["position_ids"] = torch.from_numpy(position_RQ).to(device)
        logits = self.model(
            input_ids=torch.from_numpy(self.ids_RC[: self.count, self.filled - columns : self.filled]).to(device),
            attention_mask=torch.from_numpy(mask_RC).to(device, torch.int64),
            past_key_values=self.cache,
            use_cache=True,
            **extra,
        ).logits
        return logits[:, -1].float()
