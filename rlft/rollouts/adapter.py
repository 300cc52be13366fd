"""Any rollout as TRL's `rollout_func`, so that GRPO and SHEAR train on it.

TRL calls `rollout_func(prompts, trainer)` with this process's prompts, each as often as its group is large, and wants
one completion for each: token ids, and an `env_mask` that is 0 on the environment's tokens. TRL then keeps those tokens
in the attention and out of the loss, the lengths and the normalisation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rlft import compat
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.policy import Policy, Sampling, seed_of
from rlft.rollouts.trajectory import Trajectory

Rollout = Callable[[list[dict[str, Any]], Policy, Sampling], list[Trajectory]]
Row = dict[str, Any]

_RENAMED = {"answer": "final_answer"}
"""A column `answer` usually holds the gold answer, which an extra of that name would overwrite."""


@contextmanager
def trainer_policy(trainer: Any, batch_size: int = 64) -> Iterator[Policy]:
    """The trainer's model as a policy: in its colocated vLLM with `use_vllm`, else gathered and in evaluation mode.

    TRL has moved the weights into its engine by the time it calls a `rollout_func`. The log-probabilities given are the
    engine's own, after top-p and top-k: those that `vllm_importance_sampling_correction` compares.

    Args:
        trainer: a `trl.GRPOTrainer`; every process enters.
        batch_size: prompts in one batch of transformers.

    Raises:
        ValueError: for `vllm_mode=server`, or an engine spread over processes, which each ask at their own pace.
    """
    pad_id, stop_ids = compat.pad_and_stop_ids(trainer)
    if trainer.processing_class.chat_template:
        stop_ids |= ChatFrame(trainer.processing_class).stop_ids
    if trainer.args.use_vllm:
        from rlft.compat.vllm import vllm_engine
        from rlft.rollouts.vllm_policy import VLLMPolicy

        with vllm_engine(trainer.vllm_generation, sync=False) as llm:
            yield VLLMPolicy(llm, stop_ids, own_logprobs=True)
        return
    from rlft.rollouts.transformers_policy import TransformersPolicy

    with compat.generation_model(trainer) as model:
        yield TransformersPolicy(model, stop_ids=stop_ids, pad_id=pad_id, batch_size=batch_size)


def question_row(prompt: Any) -> Row:
    """A row `{question, system}` of a prompt: a string, or a conversation of a user message after at most a system one.

    Raises:
        ValueError: for any other prompt.
    """
    if isinstance(prompt, str):
        return {"question": prompt, "system": None}
    said = {message["role"]: message["content"] for message in prompt}
    if [message["role"] for message in prompt] not in (["user"], ["system", "user"]):
        raise ValueError(
            f"a prompt with the roles {[message['role'] for message in prompt]} is no question: a rollout begins with "
            "one user message, after a system message or none; give as_rollout_func a row_of of your own."
        )
    return {"question": said["user"], "system": said.get("system")}


def as_rollout_func(
    rollout: Rollout,
    *,
    policy: Callable[[Any], AbstractContextManager[Policy]] = trainer_policy,
    row_of: Callable[[Any], Row] = question_row,
) -> Callable[[list[Any], Any], dict[str, list[Any]]]:
    """Make a rollout a `rollout_func` of `trl.GRPOTrainer` (or `SHEARTrainer`).

    A row that the rollout gets holds what `row_of` gave, and: `id`; `seed`, from the run's seed, the step, the place in
    the batch and the prompt, so that equal prompts are sampled differently and a run can be repeated; and
    `max_completion_tokens`, TRL's `max_completion_length`, which counts the environment's tokens too.

    Args:
        rollout: gives one trajectory for each row.
        policy: opens the trainer's policy for one batch; called with the trainer. For another backend than the
            trainer's own, such as a server, give a context manager of your own.
        row_of: makes a row of a prompt.

    Returns:
        The function. Beside ids, log-probs and `env_mask` it gives reward functions `finish` (text) and the
        trajectories' fields as keyword arguments; the field `answer` is called `final_answer`.

        Raises ValueError: if a rollout gives another number of trajectories, a trajectory with branches (their tokens
        would not be trained), an empty one, or one longer than `max_completion_length`; or if the trainer asks for
        sampling that a policy does not know.
    """

    def rollout_func(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        sampling = _sampling(trainer.args)
        rows = [_row(row_of(prompt), prompt, place, trainer) for place, prompt in enumerate(prompts)]
        with policy(trainer) as opened:
            trajectories = rollout(rows, opened, sampling)
        _verify(trajectories, len(rows), trainer.args.max_completion_length)
        return {
            "prompt_ids": [trajectory.prompt_ids for trajectory in trajectories],
            "completion_ids": [trajectory.completion_ids for trajectory in trajectories],
            "logprobs": [trajectory.logprobs for trajectory in trajectories],
            "env_mask": [trajectory.trainable_mask for trajectory in trajectories],
            "finish": [str(trajectory.finish) for trajectory in trajectories],
            **_extras(trajectories),
        }

    return rollout_func


def _row(row: Row, prompt: Any, place: int, trainer: Any) -> Row:
    names = trainer.state.global_step, trainer.accelerator.process_index, place
    return {
        "id": "-".join(map(str, names)),
        **row,
        "seed": seed_of(trainer.args.seed, *names, prompt),
        "max_completion_tokens": trainer.args.max_completion_length,
    }


def _sampling(args: Any) -> Sampling:
    unknown = {
        "min_p": None,
        "repetition_penalty": 1.0,
        "generation_kwargs": None,
        "vllm_structured_outputs_regex": None,
    }
    asked = [f"{name}={getattr(args, name)!r}" for name, off in unknown.items() if getattr(args, name) not in (off, {})]
    if asked:
        raise ValueError(f"{', '.join(asked)}: rollouts sample with temperature, top_p and top_k only; leave it out.")
    return Sampling(args.temperature, args.top_p, args.top_k or 0)


def _verify(trajectories: Sequence[Trajectory], count: int, longest: int) -> None:
    if len(trajectories) != count:
        raise ValueError(
            f"the rollout gave {len(trajectories)} trajectories for {count} prompts; TRL repeats a prompt for each of "
            "its samples, so a rollout gives one for each row: leave its samples at 1."
        )
    for number, trajectory in enumerate(trajectories):
        length = len(trajectory.completion_ids)
        if trajectory.branches:
            raise ValueError(
                f"trajectory {number} has {len(trajectory.branches)} branches, whose tokens a completion has no place "
                "for: they would not be trained; set select to False, or train with EXSEARCH."
            )
        if not length:
            raise ValueError(
                f"trajectory {number} is empty: a prompt of {len(trajectory.prompt_ids)} tokens left no room for a "
                "turn; raise max_tokens of the rollout or max_completion_length, or shorten the turns."
            )
        if length > longest:
            raise ValueError(
                f"trajectory {number} has {length} tokens after the prompt, above max_completion_length={longest}; "
                "the rollout has to keep to the row's max_completion_tokens."
            )


def _extras(trajectories: Sequence[Trajectory]) -> Mapping[str, list[Any]]:
    names = sorted({name for trajectory in trajectories for name in trajectory.fields} - {"id"})
    return {_RENAMED.get(name, name): [trajectory.fields.get(name) for trajectory in trajectories] for name in names}
