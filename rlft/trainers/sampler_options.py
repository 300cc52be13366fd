"""How an EM run samples: the part of a method's configuration that its rollouts share, without torch."""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from rlft.em.options import option
from rlft.rollouts.drawing import check_logprobs
from rlft.rollouts.policy import Sampling
from rlft.rollouts.server_policy import server_root

SAMPLERS = ("transformers", "continuous", "vllm", "server")


@dataclass
class SamplerOptions:
    """The distribution that is drawn from, and what draws."""

    chat_template_kwargs: str | None = option(None, 'Settings of the chat template, as {"enable_thinking": false}.')

    temperature: float = option(1.0, "Sampling temperature; 1 with top_p 1 draws from the model itself, as EM needs.")
    top_p: float = option(1.0, "Nucleus sampling; below 1 the weights are no longer those of eq. 3.")
    top_k: int = option(0, "Sample among the k likeliest tokens; 0 takes all.")
    sampler: str = option("transformers", "transformers, continuous (CUDA), vllm (in process) or server.")
    sampler_batch_size: int = option(64, "Prompts in one batch of transformers; requests in flight to the server.")
    sampler_keep_tokens: int = option(
        0, "Tokens of key-value cache that transformers carries from turn to turn: faster, for memory."
    )
    sampler_memory: float = option(0.3, "With sampler=vllm: share of the GPU's memory for its engine while it samples.")
    sampler_url: str | None = option(None, "With sampler=server: a vLLM server; its key goes in VLLM_API_KEY.")
    sampler_timeout: float = option(300.0, "With sampler=server: seconds that one request may take.")
    eval_sampled: bool = option(True, "Validate sampled trajectories too, beside greedy ones.")

    def check_sampling(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            ValueError: naming the option, its value and its rule.
        """
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler={self.sampler!r} is none of {', '.join(SAMPLERS)}.")
        if (self.sampler == "server") != (self.sampler_url is not None):
            raise ValueError(f"sampler={self.sampler!r} with sampler_url={self.sampler_url!r}: server needs the URL.")
        if self.sampler_batch_size < 1 or self.sampler_keep_tokens < 0:
            raise ValueError(
                f"sampler_batch_size={self.sampler_batch_size} must be at least 1, sampler_keep_tokens="
                f"{self.sampler_keep_tokens} at least 0."
            )
        if not 0 < self.sampler_memory < 1 or self.sampler_timeout <= 0:
            raise ValueError(
                f"sampler_memory={self.sampler_memory} must be between 0 and 1, "
                f"sampler_timeout={self.sampler_timeout} above 0."
            )
        if self.sampler_url is not None:
            server_root(self.sampler_url)
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} would draw the same sample K times; it must be above 0.")
        self.template_settings()
        sampling = self.sampling()
        if self.sampler != "transformers":
            check_logprobs(sampling, "processed" if self.sampler == "continuous" else "scaled")

    def check_sampler(self, peft_config: Any) -> None:
        """Refuse a sampler that could not sample what is trained.

        Args:
            peft_config: LoRA configuration; None where all parameters are trained.

        Raises:
            ValueError: for vLLM where it is not installed, and for a server that could not be given the weights.
        """
        if self.sampler == "vllm" and find_spec("vllm") is None:
            raise ValueError("sampler='vllm' and vllm is not installed: pip install 'rlft[vllm]'.")
        if self.sampler != "server":
            return
        if peft_config is None:
            raise ValueError(
                "sampler='server' and all parameters are trained; a server takes a LoRA adapter at run time, not a "
                "whole model: train with --use_peft, or sample with --sampler vllm."
            )
        served = {"peft_type": "LORA", "use_dora": False, "bias": "none", "modules_to_save": None}
        given = {name: getattr(peft_config, name, usual) for name, usual in served.items()}
        other = [f"{name}={value!r}" for name, value in given.items() if value != served[name]]
        if other:
            raise ValueError(
                f"sampler='server' and {', '.join(other)}, which vLLM's server does not load; leave it out, or sample "
                "with --sampler vllm."
            )

    def template_settings(self) -> dict[str, Any]:
        """Settings of the chat template.

        Raises:
            ValueError: if they are no JSON object.
        """
        given = self.chat_template_kwargs or "{}"
        try:
            settings = json.loads(given) if isinstance(given, str) else dict(given)
        except ValueError as error:
            raise ValueError(f"chat_template_kwargs={given!r} is not JSON: {error}.") from error
        if not isinstance(settings, dict):
            raise ValueError(f'chat_template_kwargs={given!r} must be a JSON object, as {{"enable_thinking": false}}.')
        return settings

    def sampling(self) -> Sampling:
        """The distribution that the E-step draws from.

        Raises:
            ValueError: for a temperature, top_p or top_k out of its range.
        """
        return Sampling(self.temperature, self.top_p, self.top_k)
