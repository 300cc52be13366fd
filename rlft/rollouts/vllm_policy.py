"""Sampling with a vLLM engine in this process, such as the one that TRL colocates with training.

The engine of a trainer, awake and with its current weights:

    with vllm_engine(trainer.vllm_generation) as llm:
        policy = VLLMPolicy(llm, stop_ids)

Every draw is a request with its own seed, cap and stop ids, and the end ids of the model's own generation config are
ignored. The engine batches requests as they come, so a draw gives the same tokens in other company only as far as the
engine's kernels give the same logits.
"""

from collections.abc import Sequence, Set
from typing import Any

from rlft.rollouts.drawing import LogprobsAre, check_draws, check_logprobs, generation_of, refuse_grammars
from rlft.rollouts.policy import Draw, Generation, Sampling

_MODES: dict[str, LogprobsAre] = {"raw_logprobs": "raw", "processed_logprobs": "processed"}


class VLLMPolicy:
    """A `vllm.LLM` as a policy."""

    def __init__(self, llm: Any, stop_ids: Set[int], *, own_logprobs: bool = False) -> None:
        """
        Args:
            llm: the `vllm.LLM`.
            stop_ids: ids that end a continuation.
            own_logprobs: give the engine's log-probabilities as they are, for a caller that reads none or wants just
                those, instead of refusing a sampling for which they are not those that `Generation` promises.

        Raises:
            ValueError: if the engine gives logits in the place of log-probabilities.
        """
        config = llm.llm_engine.model_config
        if config.logprobs_mode not in _MODES:
            raise ValueError(
                f"the vLLM engine has logprobs_mode={config.logprobs_mode!r}; start it with one of {sorted(_MODES)}."
            )
        self.llm, self.stop_ids = llm, frozenset(stop_ids)
        # `scaled` is what `Generation` promises, so nothing but the temperature is refused then.
        self.logprobs_are: LogprobsAre = "scaled" if own_logprobs else _MODES[config.logprobs_mode]
        self.max_length: int = config.max_model_len
        self.vocab_size: int = config.get_vocab_size()

    def generate(self, draws: Sequence[Draw], sampling: Sampling) -> list[Generation]:
        """One generation per draw, in order.

        Raises:
            ValueError: for a draw that the engine cannot continue, one under a grammar, or a sampling whose
                log-probabilities it does not give, before anything is sampled.
            RuntimeError: if the engine ended a continuation neither at a stop id nor at the cap.
        """
        from vllm import SamplingParams

        check_draws(draws, vocab_size=self.vocab_size, max_length=self.max_length)
        check_logprobs(sampling, self.logprobs_are)
        refuse_grammars(draws, self)
        if not draws:
            return []
        requests = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                repetition_penalty=sampling.repetition_penalty,
                seed=draw.seed,
                max_tokens=draw.max_new_tokens,
                stop_token_ids=sorted(self.stop_ids),
                ignore_eos=True,
                logprobs=0,
                detokenize=False,
            )
            for draw in draws
        ]
        prompts = [{"prompt_token_ids": draw.prompt_ids} for draw in draws]
        answers = self.llm.generate(prompts, sampling_params=requests, use_tqdm=False)
        return [self._read(draw, answer.outputs[0]) for draw, answer in zip(draws, answers, strict=True)]

    def _read(self, draw: Draw, output: Any) -> Generation:
        ids = list(output.token_ids)
        logprobs = [position[token].logprob for token, position in zip(ids, output.logprobs, strict=True)]
        return generation_of(draw, ids, logprobs, self.stop_ids)
