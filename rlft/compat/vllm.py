"""TRL's colocated vLLM engine: away from a trainer, and awake for as long as something is sampled."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from accelerate import PartialState


def vllm_generation(model: Any, tokenizer: Any, max_tokens: int, memory: float) -> Any:
    """TRL's colocated vLLM engine away from a trainer, asleep; every process calls, as the engines start together.

    Args:
        model: the engine starts from its folder; assign `.model` to move another's weights in.
        tokenizer: the model's.
        max_tokens: longest prompt and completion together.
        memory: share of the GPU's memory that the engine takes while it is awake.
    """
    from trl.generation.vllm_generation import VLLMGeneration

    # Each process has a whole model, which nothing may gather. An Accelerator would also fix the mixed precision here.
    names = ("num_processes", "process_index", "local_process_index", "device", "is_main_process", "wait_for_everyone")
    whole = {"state": SimpleNamespace(deepspeed_plugin=None), **{name: getattr(PartialState(), name) for name in names}}
    alone: Any = SimpleNamespace(**whole)
    return VLLMGeneration(
        model, alone, tokenizer, gpu_memory_utilization=memory, max_model_length=max_tokens, enable_sleep_mode=True
    )


@contextmanager
def vllm_engine(generation: Any, sync: bool = True) -> Iterator[Any]:
    """The colocated engine of a `trl.generation.vllm_generation.VLLMGeneration`, awake; asleep again afterwards.

    Args:
        generation: a trainer's `vllm_generation`, for which every process has to enter (pushing the weights gathers
            them), or one that `vllm_generation` made.
        sync: push the model's weights into the engine first. TRL has done so when it calls a `rollout_func`; an engine
            that has slept since has lost them, so there it is done in any case.

    Returns:
        The `vllm.LLM`.

    Raises:
        ValueError: in server mode, and where one engine is spread over processes, which would have to ask in lockstep.
    """
    if generation.mode != "colocate" or generation.tensor_parallel_size > 1:
        raise ValueError(
            f"vllm_mode={generation.mode!r} with vllm_tensor_parallel_size={generation.tensor_parallel_size}: a whole "
            "engine in this process is needed. Use --vllm_mode colocate with --vllm_tensor_parallel_size 1, or sample "
            "from the server through rlft.rollouts.server_policy.ServerPolicy."
        )
    if sync or generation._llm_weights_sleeping:
        generation.sync_weights()
    if not generation.enable_sleep_mode:
        yield generation.llm
        return
    generation.llm.wake_up(tags=["kv_cache"])
    try:
        yield generation.llm
    finally:
        generation.llm.sleep(level=2)
        generation._llm_weights_sleeping = True
