"""The credit contract: what a credit function is given, and what it must give back.

Shapes: G rollouts of one prompt; T_i model tokens of rollout i (prompt, padding and environment tokens are left out);
H hidden width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt.

    Attributes:
        completion_ids: G tensors (T_i,) of token ids.
        rewards: (G,) total reward that TRL normalised, NaN where no reward function applied.
        correct: (G,) bool, `rewards >= correct_threshold`.
        advantages: (G,) TRL's advantages.
        hidden: G tensors (T_i, H), the state *of* each token; only if the credit declares `needs = {"hidden"}`.
        entropy: G tensors (T_i,), nats of the distribution each token was drawn from; only with `{"entropy"}`.
        answer_start: G token indices at which the final answer begins (T_i where there is none); only when
            `exclude_answer` is set.
    """

    completion_ids: Sequence[Tensor]
    rewards: Tensor
    correct: Tensor
    advantages: Tensor
    hidden: Sequence[Tensor] | None = None
    entropy: Sequence[Tensor] | None = None
    answer_start: Sequence[int] | None = None

    @property
    def lengths(self) -> list[int]:
        """T_i of each rollout."""
        return [len(ids) for ids in self.completion_ids]

    @property
    def mixed(self) -> bool:
        """Whether the group holds both correct and wrong rollouts; unscored ones are neither."""
        return bool(self.correct.any()) and bool(self.wrong.any())

    @property
    def wrong(self) -> Tensor:
        """(G,) bool: scored, and not correct."""
        return ~self.correct & ~self.rewards.isnan()


Credit = Callable[[Group], Sequence[Tensor]]


class CreditError(ValueError):
    """A credit function gave weights that cannot be used."""


def needs(credit: Credit) -> frozenset[str]:
    """What a credit function wants in its `Group` beyond ids and rewards: its `needs` attribute, or nothing.

    Raises:
        CreditError: if it asks for something that does not exist.
    """
    wanted = frozenset(getattr(credit, "needs", ()))
    unknown = wanted - {"hidden", "entropy"}
    if unknown:
        raise CreditError(f"credit {name_of(credit)} needs {sorted(unknown)}; known needs are 'hidden' and 'entropy'.")
    return wanted


def mixed_only(credit: Credit) -> bool:
    """Whether a credit function gives 1 wherever outcomes do not differ, so that it need not be asked there.

    It says so by an attribute `mixed_only = True`. Then nothing is computed or sent for groups of one outcome.
    """
    return bool(getattr(credit, "mixed_only", False))


def name_of(credit: Credit) -> str:
    """Readable name of a credit function, for messages."""
    return getattr(credit, "__name__", type(credit).__name__)


def checked_weights(credit: Credit, group: Group) -> list[Tensor]:
    """Call `credit` and verify its answer: one finite float tensor (T_i,) a rollout.

    Args:
        credit: the credit function.
        group: G rollouts.

    Returns:
        G fp32 tensors (T_i,) on the CPU.

    Raises:
        CreditError: on a wrong count, type or shape or a non-finite weight, naming the rollout.
    """
    weights = list(credit(group))
    name = name_of(credit)
    for i, weight_T in enumerate(weights):
        if not isinstance(weight_T, Tensor):
            seen = type(weight_T).__name__
            raise CreditError(f"credit {name}: the weights of rollout {i} are a {seen}; return one torch.Tensor each.")
    if len(weights) != len(group.lengths):
        raise CreditError(f"credit {name} gave {len(weights)} weight tensors for {len(group.lengths)} rollouts.")
    for i, (weight_T, length) in enumerate(zip(weights, group.lengths, strict=True)):
        if tuple(weight_T.shape) != (length,):
            shape = tuple(weight_T.shape)
            raise CreditError(f"credit {name}: rollout {i} has {length} tokens but its weights have shape {shape}.")
    here = [weight_T.detach().to("cpu", torch.float32) for weight_T in weights]
    if not torch.isfinite(torch.cat(here)).all():
        i = next(i for i, weight_T in enumerate(here) if not torch.isfinite(weight_T).all())
        raise CreditError(f"credit {name}: rollout {i} has a weight that is not finite.")
    return here
