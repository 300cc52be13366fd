"""The two models of a DRO run: on one frozen base with an adapter each where they can share it, else one at a time."""

import gc
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from rlft.trainers.round_models import RoundModels

SELECTOR, GENERATOR = ROLES = ("selector", "generator")


class PairModels:
    """Gives the selector or the generator in a folder of that name, `round-3/selector`.

    To sample and to score, adapters of the same base sit on one copy of it, and asking for one of them switches to it.
    Each is trained alone on that base (`RoundModels.load`), so memory never holds two bases.

    Args:
        models: of each role.

    Raises:
        ValueError: for adapters that cannot share a base: a base has one set of biases.
    """

    def __init__(self, models: dict[str, RoundModels]):
        self.models = models
        selector, generator = models[SELECTOR], models[GENERATOR]
        self.shared = selector.peft_config is not None and selector.base == generator.base
        bias = getattr(selector.peft_config, "bias", "none")
        if self.shared and bias != "none":
            raise ValueError(f"bias={bias!r} trains the base's biases, which both adapters share; set bias='none'.")
        self._pair: Any = None
        self._at: dict[str, Path] = {}

    def at(self, folder: Path) -> nn.Module:
        """The model in a folder, in evaluation mode; it stays loaded."""
        role = folder.name
        if not self.shared:
            other = GENERATOR if role == SELECTOR else SELECTOR
            self.models[other].forget()
            return self.models[role].at(folder)
        if self._at.get(role) not in (None, folder):
            self.forget()  # both move on to another round
        if self._pair is None:
            base = self.models[role].load_base()
            self._pair = PeftModel.from_pretrained(base, str(folder), adapter_name=role)
        elif role not in self._at:
            self._pair.load_adapter(str(folder), role)
        self._at[role] = folder
        self._pair.set_adapter(role)
        return self._pair.eval()

    def forget(self) -> None:
        """Let go of what is loaded."""
        self._pair, self._at = None, {}
        for models in self.models.values():
            models.forget()
        gc.collect()
