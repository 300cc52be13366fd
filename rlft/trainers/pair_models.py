"""The two models of a DRO run: on one frozen base with an adapter each where they can share it, else one at a time."""

import gc
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from rlft.pair_folder import GENERATOR, SELECTOR
from rlft.saved import refuse_pickles
from rlft.trainers.round_models import RoundModels

KEEP_BASE = (True, False, "gaussian", "eva", "orthogonal")
"""Ways to initialise LoRA that leave the base as it is; the others move a part of it into the adapter."""


class PairModels:
    """Gives the selector or the generator in a folder of that name, `round-3/selector`.

    To sample and to score, adapters of the same base sit on one copy of it, and asking for one of them switches to it.
    Each is trained alone on that base (`RoundModels.load`), so memory never holds two bases.

    Args:
        models: of each role.

    Raises:
        ValueError: for adapters that cannot share a base, because training or loading one changes it.
    """

    def __init__(self, models: dict[str, RoundModels]):
        self.models = models
        selector, generator = models[SELECTOR], models[GENERATOR]
        one_base = (selector.base, selector.init_kwargs) == (generator.base, generator.init_kwargs)
        self.shared = selector.peft_config is not None and one_base
        bias = getattr(selector.peft_config, "bias", "none")
        if self.shared and bias != "none":
            raise ValueError(f"bias={bias!r} trains the base's biases, which both adapters share; set bias='none'.")
        init = getattr(selector.peft_config, "init_lora_weights", True)
        if self.shared and init not in KEEP_BASE:
            raise ValueError(
                f"init_lora_weights={init!r} changes the base, which both adapters share; choose one of "
                f"{', '.join(map(str, KEEP_BASE))}, or give the selector a base of its own (selector_model)."
            )
        self._pair: Any = None
        self._at: dict[str, Path] = {}

    def at(self, folder: Path) -> nn.Module:
        """The model in a folder, in evaluation mode; it stays loaded."""
        role = folder.name
        refuse_pickles(folder)
        if not self.shared:
            for other in self._at.keys() - {role}:
                self.models[other].forget()
            self._at = {role: folder}
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
        loaded, self._at = self._at, {}
        if self.shared and loaded:
            self._pair = None
            gc.collect()
        elif loaded:
            for role in loaded:
                self.models[role].forget()
