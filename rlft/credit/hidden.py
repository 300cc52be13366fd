"""Tap the hidden states that enter the LM head, inside a forward that somebody else makes.

The tap is a hook that exists only while it captures: gradient checkpointing re-runs layers in the backward pass,
and several trainers may share one model, so a hook that stayed would collect states nobody asked for.
Shapes: B rows, S prompt and completion positions, T completion positions, H hidden width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f")
RANDOM_SETTINGS = ("drop", "jitter", "noise")


class HiddenTap:
    """Collects last-layer states from the forwards of one model.

    Args:
        model: a causal language model, PEFT-wrapped or not, unwrapped from DDP.
        position: `post_norm` takes what the LM head reads, `pre_norm` what enters the final norm.

    Raises:
        ValueError: if `pre_norm` is asked of a backbone whose final norm has an unknown name.
    """

    def __init__(self, model: Any, position: str = "post_norm"):
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.backbone: nn.Module = base.base_model
        self.position = position
        if position == "pre_norm":
            self.norm = _final_norm(self.backbone)

    @contextmanager
    def listen(self, keep: Callable[[Tensor], None]) -> Iterator[None]:
        """While open, hand `keep` the states (B, S, H) of every forward of the backbone, detached."""
        if self.position == "pre_norm":
            handle = self.norm.register_forward_pre_hook(lambda module, args: keep(args[0].detach()))
        else:
            handle = self.backbone.register_forward_hook(
                lambda module, args, output: keep(_last_hidden_state(output).detach())
            )
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def capture(self, completion_length: int) -> Iterator[list[Tensor]]:
        """While open, every forward of the backbone appends the states of its completion tokens to the list.

        Args:
            completion_length: T; completions lie at the right end of every row.

        Yields:
            One tensor (rows of that chunk, T, H) a forward; position t has read completion token t.
        """
        chunks: list[Tensor] = []
        # A view would keep the prompt's states too.
        with self.listen(lambda states_BSH: chunks.append(states_BSH[:, -completion_length:].clone())):
            yield chunks


def drops_out(model: nn.Module) -> bool:
    """Whether a forward in training mode is random: an active dropout, layer drop, router jitter or NEFTune."""
    for module in model.modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            return True
        for name, value in vars(module).items():
            if isinstance(value, float) and value > 0 and any(word in name for word in RANDOM_SETTINGS):
                return True
    return False


def _last_hidden_state(output: Any) -> Tensor:
    return output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]


def _final_norm(backbone: nn.Module) -> nn.Module:
    for name in FINAL_NORMS:
        norm = getattr(backbone, name, None)
        if isinstance(norm, nn.Module):
            return norm
    raise ValueError(
        f"hidden='pre_norm': {type(backbone).__name__} has no final norm called {', '.join(FINAL_NORMS)}; "
        "use --hidden post_norm."
    )
