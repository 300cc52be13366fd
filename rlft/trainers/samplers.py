"""The sampler of an EM run: who draws the trajectories of a round from the weights in that round's folder.

EM reads no log-probabilities of what it samples, so vLLM and a server give theirs as they are.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from rlft.record.stages import digest
from rlft.rollouts.policy import Policy
from rlft.rollouts.transformers_policy import TransformersPolicy

API_KEY = "VLLM_API_KEY"
"""Environment variable with the key of the server, the one that vLLM's own server reads."""


class Samplers:
    """Gives the policy of a round, by `args.sampler`.

    `transformers` and `continuous` sample the model in this process. `vllm` keeps one engine in this process, asleep
    while nothing is sampled, and moves the weights of each round into it. `server` tells a vLLM server, started with
    `--enable-lora` and `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`, to load the round's adapter from its folder, which it
    must be able to read.

    Args:
        args: an `ExSearchConfig`.
        tokenizer: the model's.
        stop_ids: ids that end a turn.
        pad_id: any id, for padding.
    """

    def __init__(self, args: Any, tokenizer: Any, stop_ids: frozenset[int], pad_id: int):
        self.args, self.tokenizer, self.stop_ids, self.pad_id = args, tokenizer, stop_ids, pad_id
        self._engine: Any = None
        self._awake = ExitStack()
        self._adapter: str | None = None
        self._current: tuple[Path, Policy] | None = None

    def start(self, folder: Path, load: Callable[[Path], nn.Module]) -> None:
        """Start vLLM's engine, if it is wanted and not there yet.

        Engines start in all processes together, so every process calls this before one of them samples.
        """
        if self.args.sampler == "vllm" and self._engine is None:
            from rlft.compat.vllm import vllm_generation

            settings = self.args.max_tokens, self.args.sampler_memory
            self._engine = vllm_generation(load(folder), self.tokenizer, *settings)
            self._engine.model = None

    def policy(self, folder: Path, load: Callable[[Path], nn.Module]) -> Policy:
        """The policy with the weights of a round's folder, for one shard; the last one is kept.

        What it remembers of other shards is dropped, so that a shard comes out the same, to the last bit, wherever a
        killed run goes on.
        """
        if self._current is None or self._current[0] != folder:
            self.forget()
            self._current = (folder, self._make(folder, load))
        policy = self._current[1]
        if isinstance(policy, TransformersPolicy):
            policy.forget()
        return policy

    def forget(self) -> None:
        """Let go of the model that the last policy samples, and put vLLM's engine to sleep: it frees its memory."""
        self._current = None
        self._awake.close()

    def _make(self, folder: Path, load: Callable[[Path], nn.Module]) -> Policy:
        if self.args.sampler == "continuous":
            from rlft.rollouts.continuous import ContinuousPolicy

            return ContinuousPolicy(load(folder), self.stop_ids)
        if self.args.sampler == "vllm":
            return self._in_engine(folder, load)
        if self.args.sampler == "server":
            return self._on_server(folder)
        size, keep = self.args.sampler_batch_size, self.args.sampler_keep_tokens
        return TransformersPolicy(load(folder), self.stop_ids, self.pad_id, size, keep)

    def _in_engine(self, folder: Path, load: Callable[[Path], nn.Module]) -> Policy:
        from rlft.compat.vllm import vllm_engine
        from rlft.rollouts.vllm_policy import VLLMPolicy

        self.start(folder, load)
        self._engine.model = load(folder)
        with unchanged(self._engine.model):
            llm = self._awake.enter_context(vllm_engine(self._engine))
        self._engine.model = None
        return VLLMPolicy(llm, self.stop_ids, own_logprobs=True)

    def _on_server(self, folder: Path) -> Policy:
        from rlft.rollouts.server_policy import ServerPolicy

        name = adapter_name(folder)
        self._tell("load_lora_adapter", "already been loaded", lora_name=name, lora_path=str(folder.resolve()))
        if self._adapter not in (None, name):  # no process samples it any more: a stage ends in all together
            self._tell("unload_lora_adapter", "cannot be found", lora_name=self._adapter)
        self._adapter = name
        return ServerPolicy(
            self.args.sampler_url,
            name,
            self.stop_ids,
            os.environ.get(API_KEY),
            timeout=self.args.sampler_timeout,
            concurrency=self.args.sampler_batch_size,
            own_logprobs=True,
        )

    def _tell(self, endpoint: str, done_before: str, **request: Any) -> None:
        """Ask the server something that another process may have asked before.

        Raises:
            RuntimeError: if it refuses, with what has to be switched on.
        """
        from rlft.rollouts.server_policy import ServerError, post, server_root

        url = f"{server_root(self.args.sampler_url)}/v1/{endpoint}"
        try:
            post(url, request, os.environ.get(API_KEY), timeout=self.args.sampler_timeout)
        except ServerError as error:
            if done_before not in str(error):
                raise RuntimeError(
                    f"{error} ({request}). Start vLLM's server with --enable-lora, --max-lora-rank of at least the "
                    "adapter's, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, where it sees this folder; "
                    f"a key it asks for belongs in {API_KEY}."
                ) from error


def adapter_name(folder: Path) -> str:
    """A name for a round's adapter that no other run and no other weights have, as a server may keep old ones."""
    files = (folder / name for name in ("adapter_config.json", "adapter_model.safetensors"))
    content = "\n".join([str(folder.resolve()), *(str(digest(file)) for file in files)])
    return f"{folder.parent.name}-{folder.name}-{hashlib.blake2b(content.encode(), digest_size=8).hexdigest()}"


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put the layers under an adapter back bit for bit: TRL merges the adapter into them, and unmerging rounds."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer.get_base_layer() for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    kept = [
        (layer, name, parameter, parameter.data.to("cpu", copy=True))
        for layer in layers
        for name, parameter in layer.named_parameters()
    ]
    try:
        yield
    finally:
        for layer, name, parameter, values in kept:
            parameter.data.copy_(values)
            setattr(layer, name, parameter)  # a quantised layer gets a new one when it is merged
