"""Sampling with the continuous batching of transformers: a paged cache, and requests that join and leave the batch.

It is meant for CUDA, where long and short continuations waste no padding on each other and prompts with a common
beginning share its cache. It runs on a CPU too, for tests; there `TransformersPolicy` is the faster one.

All draws of a call share one random stream, seeded from all their seeds: the same list of draws gives the same
generations, but a draw alone gives others than in company. Where a draw has to be the same in any company (a resumed
run, a comparison of batch sizes), use `TransformersPolicy`.
"""

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from rlft.rollouts.drawing import check_draws, check_logprobs, generation_of, refuse_grammars
from rlft.rollouts.policy import Draw, Generation, Sampling, seed_of
from rlft.rollouts.transformers_policy import ready_to_sample


class ContinuousPolicy:
    """A causal language model of transformers as a policy, batched continuously."""

    def __init__(self, model: Any, stop_ids: Set[int], **settings: Any) -> None:
        """
        Args:
            model: `PreTrainedModel` or a `PeftModel` whose adapter lies in the layers (LoRA and its kin).
            stop_ids: ids that end a continuation.
            settings: fields of `transformers.ContinuousBatchingConfig`, such as `max_memory_percent`: the share of the
                free GPU memory that the cache takes during a call (.9 unless told; training may want it back).

        Raises:
            ValueError: for settings that this policy decides.
        """
        taken = {"seed", "return_logprobs"} & settings.keys()
        if taken:
            raise ValueError(f"{', '.join(sorted(taken))}: set by this policy itself; leave it out.")
        self.model, self.stop_ids = model, frozenset(stop_ids)
        self.settings = settings
        ContinuousBatchingConfig(**settings)  # an unknown field is an error now, not after hours

    def generate(self, draws: Sequence[Draw], sampling: Sampling) -> list[Generation]:
        """One generation per draw, in order.

        Raises:
            ValueError: for a draw that the model cannot continue, one under a grammar, or top-p or top-k, whose
                log-probabilities are not given, before anything is sampled.
            RuntimeError: if the engine failed.
        """
        config = self.model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        check_draws(draws, vocab_size=config.vocab_size, max_length=limit)
        check_logprobs(sampling, "processed")
        refuse_grammars(draws, self)
        if not draws:
            return []
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        with ready_to_sample(self.model), _own_random_state(model), self._manager(model, draws, sampling) as manager:
            names = [
                manager.add_request(
                    draw.prompt_ids, max_new_tokens=draw.max_new_tokens, eos_token_id=sorted(self.stop_ids)
                )
                for draw in draws
            ]
            manager.start()
            results = _collect(manager, len(draws))
        return [
            generation_of(draw, results[name].generated_tokens, results[name].logprobs, self.stop_ids)
            for draw, name in zip(draws, names, strict=True)
        ]

    @contextmanager
    def _manager(self, model: Any, draws: Sequence[Draw], sampling: Sampling) -> Iterator[Any]:
        model.destroy_cached_continuous_batching_manager()  # one that somebody kept has other settings
        manager = model.init_continuous_batching(
            generation_config=GenerationConfig(
                do_sample=sampling.temperature > 0,
                temperature=sampling.temperature or 1.0,
                max_new_tokens=max(draw.max_new_tokens for draw in draws),
                eos_token_id=sorted(self.stop_ids) or -1,
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                return_logprobs=True,
                seed=seed_of(*(draw.seed for draw in draws)) % 2**32,
                # Flash kernels know half precision only.
                **{"auto_switch_to_flash": model.dtype in (torch.float16, torch.bfloat16), **self.settings},
            ),
        )
        try:
            yield manager
        finally:
            manager.stop(block=True)
            manager.destroy()


def _collect(manager: Any, count: int) -> dict[str, Any]:
    """Results by request, once all have come.

    Raises:
        RuntimeError: with the engine's own error, if a request failed or the engine died.
    """
    results: dict[str, Any] = {}
    while len(results) < count:
        result = manager.get_result(timeout=1)
        if result is None:
            if not manager.is_running():
                raise RuntimeError(f"continuous batching ended with {len(results)} of {count} requests done.")
        elif result.error is not None:
            raise RuntimeError(
                f"continuous batching failed: {result.error}. If memory ran out, lower max_memory_percent or "
                "max_batch_tokens."
            )
        elif result.is_finished():
            results[result.request_id] = result
    return results


@contextmanager
def _own_random_state(model: Any) -> Iterator[None]:
    """Keep the process's random state from being reseeded, as the engine does at its start."""
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        yield
