"""Advantages that are known only when TRL's loss asks for them, after it has run the policy.

TRL shuffles the rows of a generation batch before the loss sees them, so each row takes its place along, under `ORDER`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlft.compat import Rollouts
from rlft.credit.batch import Outcomes

ORDER = "row_of_generation_batch"


@dataclass
class GenerationBatch:
    """A generation batch, with all that its credit needs but states.

    Attributes:
        rollouts: as TRL made it.
        outcomes: of all N rows.
        mask_BT: bool, true on model tokens.
        entropy_BT: entropies, if the credit needs them.
        seconds: spent on its credit so far.
    """

    rollouts: Rollouts
    outcomes: Outcomes
    mask_BT: Tensor
    entropy_BT: Tensor | None
    seconds: float = 0.0


class LateAdvantages(dict[str, Any]):
    """A micro-batch whose `advantages` are computed when they are first read, and are missing until then.

    Args:
        inputs: the micro-batch; its own advantages and `ORDER` are left out.
        advantages: computes them, (B, T) in the micro-batch's order.
    """

    def __init__(self, inputs: Rollouts, advantages: Callable[[], Tensor]):
        super().__init__({name: value for name, value in inputs.items() if name not in ("advantages", ORDER)})
        self._advantages = advantages

    def __missing__(self, name: str) -> Tensor:
        if name != "advantages":
            raise KeyError(name)
        self[name] = self._advantages()
        return self[name]
