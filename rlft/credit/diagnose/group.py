"""What a diagnosis reads: the rollouts of one prompt with their states, outcomes and, where known, their first error.

Shapes: G rollouts; T_i tokens of rollout i; H hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LabelledGroup:
    """The rollouts of one prompt.

    Args:
        name: names the group in messages; the bootstrap draws whole groups.
        hidden: G tensors (T_i, H), the state of each model token.
        token_ids: G sequences of T_i token ids.
        correct: G outcomes.
        first_error: G indices of the first wrong token; None or -1 (as in ProcessBench) where there is none or it is
            not known. None instead of a sequence: no labels at all.
        entropy: G sequences of T_i entropies in nats, or None.

    Raises:
        ValueError: if the sequences do not agree in length, or an index lies outside its rollout.
    """

    name: str
    hidden: Sequence[Tensor]
    token_ids: Sequence[Sequence[int]]
    correct: Sequence[bool]
    first_error: Sequence[int | None] | None = None
    entropy: Sequence[Sequence[float]] | None = None

    def __post_init__(self) -> None:
        given = {"token_ids": self.token_ids, "correct": self.correct}
        given |= {"first_error": self.first_error} if self.first_error is not None else {}
        given |= {"entropy": self.entropy} if self.entropy is not None else {}
        for field, values in given.items():
            if len(values) != len(self.hidden):
                raise ValueError(
                    f"group {self.name!r}: {len(values)} {field} for {len(self.hidden)} rollouts; give one each."
                )
        for i, states_TH in enumerate(self.hidden):
            if states_TH.ndim != 2:
                shape = tuple(states_TH.shape)
                raise ValueError(f"group {self.name!r}, rollout {i}: hidden has shape {shape}, not (tokens, width).")
            sizes = {"token_ids": len(self.token_ids[i])}
            sizes |= {"entropy": len(self.entropy[i])} if self.entropy is not None else {}
            for field, size in sizes.items():
                if size != len(states_TH):
                    counts = f"{size} {field} for {len(states_TH)} states"
                    raise ValueError(f"group {self.name!r}, rollout {i}: {counts}; every token has one of each.")
        for i, (error, length) in enumerate(zip(self.errors, self.lengths, strict=True)):
            if error is not None and not 0 <= error < length:
                raise ValueError(
                    f"group {self.name!r}, rollout {i}: first_error={error} lies outside its {length} tokens; use None "
                    "or -1 for no error."
                )

    @property
    def lengths(self) -> list[int]:
        """T_i of each rollout."""
        return [len(states_TH) for states_TH in self.hidden]

    @property
    def errors(self) -> list[int | None]:
        """First wrong token of each rollout, None where there is none or it is not known."""
        if self.first_error is None:
            return [None] * len(self.hidden)
        return [None if error is None or error == -1 else int(error) for error in self.first_error]

    @property
    def mixed(self) -> bool:
        """Whether both outcomes occur: only then does SHEAR compare anything."""
        return len({bool(value) for value in self.correct}) == 2
