"""The sampler of an EM run: who draws the trajectories of a round from the weights in that round's folder."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from rlft.rollouts.policy import Policy


class Samplers:
    """Gives the policy of a round, by `args.sampler`.

    `transformers` and `continuous` sample the model in this process. `vllm` keeps one engine in this process and moves
    the weights of each round into it. `server` tells a vLLM server, started with LoRA and
    `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`, to load the round's adapter from its folder, which it must be able to read.

    Args:
        args: an `ExSearchConfig`.
        tokenizer: the model's.
        stop_ids: ids that end a turn.
        pad_id: any id, for padding.
    """

    def __init__(self, args: Any, tokenizer: Any, stop_ids: frozenset[int], pad_id: int):
        self.args, self.tokenizer, self.stop_ids, self.pad_id = args, tokenizer, stop_ids, pad_id
        self._engine: Any = None
        self._current: tuple[Path, Policy] | None = None

    def policy(self, folder: Path, load: Callable[[Path], nn.Module]) -> Policy:
        """The policy with the weights of a round's folder; the last one is kept."""
        if self._current is None or self._current[0] != folder:
            self._current = (folder, self._make(folder, load))
        return self._current[1]

    def forget(self) -> None:
        """Let go of the model that the last policy samples."""
        self._current = None

    def _make(self, folder: Path, load: Callable[[Path], nn.Module]) -> Policy:
        if self.args.sampler == "continuous":
            from rlft.rollouts.continuous import ContinuousPolicy

            return ContinuousPolicy(load(folder), self.stop_ids)
        if self.args.sampler == "vllm":
            return self._in_engine(load(folder))
        if self.args.sampler == "server":
            from rlft.rollouts.server_policy import ServerPolicy

            return ServerPolicy(self.args.sampler_url, self._served(folder), self.stop_ids)
        from rlft.rollouts.transformers_policy import TransformersPolicy

        return TransformersPolicy(load(folder), self.stop_ids, self.pad_id, self.args.sampler_batch_size)

    def _in_engine(self, model: nn.Module) -> Policy:
        from rlft import compat
        from rlft.rollouts.vllm_policy import VLLMPolicy

        if self._engine is None:
            self._engine = compat.vllm_generation(model, self.tokenizer, self.args.max_tokens, self.args.sampler_memory)
        self._engine.model = model
        self._engine.sync_weights()
        return VLLMPolicy(self._engine.llm, self.stop_ids)

    def _served(self, folder: Path) -> str:
        """Have the server load the folder's adapter; the name under which it then serves it."""
        name = f"{folder.parent.name}-{folder.name}"
        url = self.args.sampler_url.rstrip("/").removesuffix("/v1") + "/v1/load_lora_adapter"
        request = {"lora_name": name, "lora_path": str(folder.resolve())}
        headers = {"Content-Type": "application/json"}
        try:
            posted = urllib.request.Request(url, json.dumps(request).encode(), headers)
            urllib.request.urlopen(posted, timeout=600).close()
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            if "already been loaded" not in said:
                raise RuntimeError(
                    f"{url} answered {error.code} to {request}: {said[:500]}. Start the server with --enable-lora and "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, on a machine that sees this folder."
                ) from error
        return name
