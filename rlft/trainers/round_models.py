"""The model of a round, on disk and in memory: a LoRA adapter on an unchanged base, or all parameters."""

import gc
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rlft.record.stages import canonical, digest
from rlft.saved import SAFETENSORS, refuse_pickles


class RoundModels:
    """Loads and saves the models of an EM run.

    Args:
        base: folder or Hub id of the model that the run starts from.
        peft_config: LoRA configuration; None trains all parameters.
        init_kwargs: for `from_pretrained` (dtype, revision, quantisation, ...).
        device: where models go; None leaves them where `from_pretrained` puts them.

    Raises:
        ValueError: if `base` is an adapter.
    """

    def __init__(self, base: str, peft_config: Any, init_kwargs: dict[str, Any], device: torch.device | None):
        if (Path(base) / "adapter_config.json").is_file():
            raise ValueError(
                f"{base} is an adapter, not a whole model; merge it into its base (merge_and_unload) and train "
                "from there."
            )
        self.base, self.peft_config, self.init_kwargs, self.device = base, peft_config, init_kwargs, device
        self._loaded: tuple[Path, nn.Module] | None = None

    def start(self, seed: int) -> nn.Module:
        """The base, with a fresh adapter if there is a LoRA configuration."""
        model = self.load_base()
        if self.peft_config is None:
            return model
        torch.manual_seed(seed)  # LoRA's A matrices are random
        return get_peft_model(model, self.peft_config)

    def load(self, folder: Path) -> nn.Module:
        """The model that `save_pretrained` left in a round's folder, trainable, in evaluation mode."""
        if self.peft_config is None:
            return self._base(str(folder)).eval()
        refuse_pickles(folder)
        return PeftModel.from_pretrained(self.load_base(), str(folder), is_trainable=True).eval()

    def at(self, folder: Path) -> nn.Module:
        """As `load`; the last one stays loaded."""
        if self._loaded is None or self._loaded[0] != folder:
            self.forget()
            self._loaded = (folder, self.load(folder))
        return self._loaded[1]

    def forget(self) -> None:
        """Let go of the model that stays loaded."""
        if self._loaded is not None:
            self._loaded = None
            gc.collect()

    @property
    def place(self) -> str:
        """The base, as it can be named from another working directory."""
        return str(Path(self.base).resolve()) if Path(self.base).is_dir() else self.base

    def config(self) -> Any:
        """Configuration of the base."""
        return AutoConfig.from_pretrained(self.base, **self._which())

    def tokenizer(self) -> Any:
        """Tokenizer of the base."""
        return AutoTokenizer.from_pretrained(self.base, **self._which())

    def _which(self) -> dict[str, Any]:
        names = ("revision", "trust_remote_code")
        return {name: self.init_kwargs[name] for name in names if name in self.init_kwargs}

    def fingerprint(self) -> str:
        """Of the base: its Hub commit, or the digest of its weights and configuration; and how it is loaded."""
        folder, how = Path(self.base), canonical(self.init_kwargs)
        if not folder.is_dir():
            return f"{self.base}@{getattr(self.config(), '_commit_hash', None)} {how}"
        files = sorted(file for pattern in ("*.safetensors", "*.bin", "config.json") for file in folder.glob(pattern))
        return hashlib.blake2b("".join(map(str, map(digest, files))).encode(), digest_size=16).hexdigest() + how

    def load_base(self) -> Any:
        """The base alone."""
        return self._base(self.base)

    def _base(self, path: str) -> Any:
        refuse_pickles(path)
        with _whole_in_every_process():
            model: Any = AutoModelForCausalLM.from_pretrained(path, **(SAFETENSORS | self.init_kwargs))
        quantised = getattr(model, "is_quantized", False)
        return model if self.device is None or quantised else model.to(self.device)


@contextmanager
def _whole_in_every_process() -> Iterator[None]:
    """Keep FSDP from loading weights in the main process alone: every process samples with a whole model."""
    name = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
