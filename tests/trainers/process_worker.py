"""One training step for each of several settings on any number of CPU processes, with the same 24 rollouts each time.

Run by test_processes.py: process_worker.py MODEL OUTPUT PROCESSES, also under torchrun.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset

from rlft import SHEARConfig, SHEARTrainer
from rlft.credit import Group
from rlft.trainers.trust import TrustCallback
from tests.shared import ON_CPU
from tests.trainers.conftest import PROMPTS, parity

ROWS = 24
SETTINGS: dict[str, dict[str, Any]] = {
    "loss": {"num_generations": 8, "exclude_answer": True, "answer_marker": "z"},
    "sharded": {"states": "forward"},
    "entropy": {"credit": f"{__file__}:nats"},
    "broken": {"states": "forward"},
}
"""`sharded` runs the wrapped model, in which all processes have to make equally many forwards; DDP's buffers hang too
where they do not. In `broken`, the last process meets a state that is not finite."""


def nats(group: Group) -> list[torch.Tensor]:
    """A credit function that says nothing of outcomes, so it is asked about all groups."""
    assert group.entropy is not None
    return [1 + entropy_T for entropy_T in group.entropy]


nats.needs = {"entropy"}  # type: ignore[attr-defined]


def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """Completions that depend on the global row only, of lengths 5 to 16: processes pad differently."""
    tokenizer, first = trainer.processing_class, trainer.accelerator.process_index * len(prompts)
    texts = [
        "".join(chr(97 + (row * 7 + i * i) % 26) for i in range(5 + row % 12))
        for row in range(first, first + len(prompts))
    ]
    return {
        "prompt_ids": [tokenizer(prompt).input_ids for prompt in prompts],
        "completion_ids": [tokenizer(text).input_ids for text in texts],
        "logprobs": None,
    }


class Saving(SHEARTrainer):
    """Keeps what the loss will see; advantages of `loss` come when it asks for them."""

    def annotate(self, inputs: list[dict[str, Any]], rollouts: dict[str, Any]) -> dict[str, Any]:
        self.batch = super().annotate(inputs, rollouts)
        return self.batch


def trainer_of(name: str, model: str, output: str, processes: int) -> Saving:
    config = SHEARConfig(
        **{
            "output_dir": f"{output}/{name}",
            "window": 4,
            "stride": 2,
            **ON_CPU,
            "on_alarm": "stop",  # which has processes agree on every log
            "max_steps": 1,
            "per_device_train_batch_size": ROWS // processes,
            "num_generations": 4,
            "max_completion_length": 16,
            "ddp_find_unused_parameters": False,
        }
        | SETTINGS[name]
    )
    prompts = Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS * 16])
    return Saving(model, parity, config, train_dataset=prompts, rollout_func=rollout, callbacks=[TrustCallback()])


def break_states(states: Any) -> None:
    whole = states.of

    def of(*args: Any) -> dict[int, torch.Tensor]:
        found = whole(*args)
        found[max(found)][0, 0] = torch.nan
        return found

    states.of = of


def step(name: str, model: str, output: str, processes: int) -> dict[str, Any]:
    trainer = trainer_of(name, model, output, processes)
    last = trainer.accelerator.process_index == processes - 1
    if name == "sharded" and trainer.states:
        trainer.states.sharded = processes > 1
        trainer.args.per_device_train_batch_size = 1
    if name == "broken" and last:
        break_states(trainer.states)
    try:
        trainer.train()
    except ValueError as error:
        return {"error": str(error)}
    masked = zip(trainer.batch["advantages"], trainer.batch["completion_mask"], strict=True)
    return {
        "advantages": [advantage_T[mask_T.bool()].tolist() for advantage_T, mask_T in masked],
        "log": trainer.state.log_history[0] if trainer.state.log_history else {},
    }


def main(model: str, output: str, processes: int) -> None:
    torch.set_num_threads(1)
    seen = {name: step(name, model, output, processes) for name in SETTINGS}
    torch.save(seen, Path(output) / f"rank-{PartialState().process_index}.pt")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
