"""Hidden states of sampled tokens from the steps of `generate`, which reads every token but the last of the longest.

A decoding step reads the token sampled before it, so its state is the state of that token. The one token that nothing
reads any more is read by one step of ours, on the cache that `generate` leaves behind. Which token a step has read is
noted beside its state, and compared with the completions afterwards: whatever else sampled them (beams, rejected
drafts, a tool that added tokens, another engine) does not agree, and then there are no states.
Shapes: B rows, T completion positions, H hidden width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rlft.credit.hidden import HiddenTap

Step = tuple[Tensor | None, Tensor]
"""Token ids (B, 1) that a forward has read, None if it was given none, and its states (B, 1, H)."""


class DecodedStates:
    """States of one call of `generate`.

    Args:
        tap: of the model that generates.
    """

    def __init__(self, tap: HiddenTap):
        self.tap = tap
        self.steps: list[Step] = []
        self._forwards = 0
        self._inputs: dict[str, Any] = {}

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Open around `generate`, and around nothing else that runs the model."""
        before = self.tap.backbone.register_forward_pre_hook(self._note_inputs, with_kwargs=True)
        try:
            with self.tap.listen(self._keep):
                yield
        finally:
            before.remove()

    @torch.no_grad()
    def finish(self, completions: list[list[int]]) -> None:
        """Read the last token of the longest completions, and let go of the cache.

        Args:
            completions: B lists of token ids, as sampled.
        """
        inputs, self._inputs = self._inputs, {}
        longest = max(map(len, completions), default=0)
        if longest == 0 or len(self.steps) != longest - 1:
            return  # every token was read, or this was no decoding token by token
        last = torch.tensor([ids[-1] if len(ids) == longest else 0 for ids in completions])
        step = _next_step(inputs, last)
        if step is not None:
            with self.capture():
                self.tap.backbone(**step)
            self._inputs = {}

    def of(self, ids_BT: Tensor, mask_BT: Tensor, rows_R: Tensor) -> Tensor | None:
        """States (R, T, H) of some of the completions, or None unless the steps have read exactly their tokens.

        Args:
            ids_BT: completion tokens, padded on the right.
            mask_BT: bool, true where a state is wanted.
            rows_R: indices of the rows whose states are wanted.
        """
        rows_R = rows_R.to(ids_BT.device)
        ids_RT, mask_RT = ids_BT[rows_R], mask_BT[rows_R]
        length = int(mask_RT.any(0).nonzero().max()) + 1 if mask_RT.any() else 1
        steps = [(ids, states) for ids, states in self.steps[:length] if ids is not None and len(ids) == len(ids_BT)]
        if len(steps) < length:
            return None
        read_RL = torch.cat([ids[rows_R] for ids, _ in steps], 1)
        if ((read_RL != ids_RT[:, :length]) & mask_RT[:, :length]).any():
            return None
        states_RLH = torch.cat([states[rows_R] for _, states in steps], 1)
        return torch.nn.functional.pad(states_RLH, (0, 0, 0, ids_BT.size(1) - length))

    def _note_inputs(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._inputs = kwargs

    def _keep(self, states_BSH: Tensor) -> None:
        self._forwards += 1
        if self._forwards > 1 and states_BSH.size(1) == 1:  # the first forward reads the prompts
            ids = self._inputs.get("input_ids")
            self.steps.append((None if ids is None else ids.clone(), states_BSH.clone()))


def _next_step(inputs: dict[str, Any], ids_B: Tensor) -> dict[str, Any] | None:
    """Arguments of the forward that would follow the one with `inputs`; None if they hold what we cannot continue."""
    cache, before = inputs.get("past_key_values"), inputs.get("input_ids")
    mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
    known = {"past_key_values", "input_ids", "attention_mask", "position_ids"}
    others = {name: value for name, value in inputs.items() if name not in known}
    if cache is None or before is None or any(isinstance(value, Tensor) for value in others.values()):
        return None
    if len(before) != len(ids_B) or not (mask is None or (isinstance(mask, Tensor) and mask.dim() == 2)):
        return None
    return others | {
        "past_key_values": cache,
        "input_ids": ids_B.to(before.device).unsqueeze(1),
        "attention_mask": mask if mask is None else torch.cat([mask, mask.new_ones(len(mask), 1)], 1),
        "position_ids": positions if positions is None else positions[..., -1:] + 1,
    }
