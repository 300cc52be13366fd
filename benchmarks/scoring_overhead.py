"""What does the reward model cost? CPU time of a step of PrLM with the personalisation term, over one without.

    ./launch.sh benchmarks/scoring_overhead.py          writes benchmarks/scoring_overhead.json

The tiny setting of recipes/prlm.py after its warm-up, with the reward model that the recipe trains: 128 completions a
step, 8 of each of 16 prompts. Arms differ in the reward named `personalization` alone:

    constant   a stand-in that gives every completion 0.5
    cold       the reward model, with nothing remembered from earlier steps
    distinct   the same, where an answer that its prompt was given before is changed until it is new
    warm       the reward model, which has scored every answer of the step before
    naive      a forward of the model for every completion by itself, with nothing remembered

One run takes the arms in turns, a step each, at a learning rate of 0, so that the policy stays as it was warmed up;
the order changes from round to round, and the first round is dropped. `overhead` is the median over rounds of
(arm - constant) / constant in CPU seconds of the process, one thread, with its quartiles; `reward_over_rest` is the
median over steps of the reward's own CPU time over that of the rest of its step. `training` is a second run at the
recipe's learning rate: the share of the completions whose score was known, and the reward's CPU time over that of the
rest, in its first and last ten steps.
"""

import argparse
import copy
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

import torch
import transformers
import trl
from transformers import PrinterCallback, TrainerCallback
from trl import ModelConfig, ScriptArguments

from rlft import PrLMConfig, PrLMTrainer
from rlft.arguments import PersonalArguments
from rlft.configure import parse_recipe
from rlft.finish_scorer import make_scorer
from rlft.prepare_prlm import prepare_prlm
from rlft.reward_models import Scorer, scorer_reward
from rlft.rewards.personal import extract_answer
from rlft.tiny.words import TOPICS

ROOT = Path(__file__).resolve().parents[1]
ARMS = ("constant", "cold", "distinct", "warm", "naive")
Reward = Callable[..., list[float | None]]


@dataclass
class Tiny:
    """The tiny setting: what trainers are built from, and the reward model."""

    plan: Any
    training: Any
    scorer: Scorer

    @property
    def form(self) -> dict[str, Any]:
        """Where an answer stands in a completion."""
        return {"key": self.training.answer_key, "think_end": self.training.think_end}

    def fresh(self) -> Scorer:
        """The reward model, with nothing remembered."""
        return Scorer(self.scorer.model, self.scorer.text.tokenizer, self.scorer.spec)


@dataclass
class Steps:
    """What the steps of a run took, in CPU seconds, and what they scored; the first step has no beginning."""

    arms: list[str] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    """Of the steps, less what was spent on preparing arms."""
    preparing: float = 0.0
    scoring: list[float] = field(default_factory=list)
    known: list[float] = field(default_factory=list)
    """Share of the completions whose answer's score was known, or stood in the step already."""

    def table(self) -> list[tuple[str, float, float, float]]:
        """Arm, CPU seconds of the step, of the reward in it, and share known, of all steps but the first."""
        took = [end - start for start, end in zip(self.ends, self.ends[1:], strict=False)]
        return list(zip(self.arms[1:], took, self.scoring[1:], self.known[1:], strict=True))


def setting(folder: Path, seed: int) -> Tiny:
    """What `recipes/prlm.py` prepares, up to the training of the policy."""
    flags = ["--seed", f"{seed}", "--output_dir", f"{folder}", "--eval_rows", "0", "--drift_steps", "0"]
    classes = [PersonalArguments, ScriptArguments, ModelConfig, PrLMConfig]
    arguments = parse_recipe("prlm", lambda: classes, description="", argv=[*flags, "--disable_tqdm", "true"])
    plan, training = prepare_prlm("prlm", *arguments), arguments[-1]
    training.model_init_kwargs = plan.model_init_kwargs
    training.scorer, _ = make_scorer(plan.scorer, plan.model, plan.model_init_kwargs, training)  # type: ignore[arg-type]
    return Tiny(plan, training, Scorer.load(training.scorer, device="cpu"))


def reward_in_turns(tiny: Tiny, arms: Iterable[str], steps: Steps) -> Reward:
    """A reward whose every call is the next arm's, and which writes down what it took."""
    turns = iter(arms)

    def reward(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        started, arm = time.process_time(), next(turns)
        scorer = tiny.scorer if arm == "training" else tiny.fresh()
        if arm == "distinct":
            completions = made_distinct(completions, columns, tiny.form)
        of_model = scorer_reward(scorer, **tiny.form)
        if arm == "warm":
            of_model(completions=completions, **columns)
        hits, ready = scorer.hits, time.process_time()
        if arm == "constant":
            rewards: list[float | None] = [0.5] * len(completions)
        elif arm == "naive":
            rewards = one_by_one(scorer, completions, columns, tiny.form)
        else:
            rewards = of_model(completions=completions, **columns)
        steps.scoring.append(time.process_time() - ready)
        steps.known.append((scorer.hits - hits) / len(completions))
        steps.arms.append(arm)
        steps.preparing += ready - started
        return rewards

    reward.__name__ = "personalization"
    return reward


def one_by_one(
    scorer: Scorer, completions: Sequence[Any], columns: dict[str, Any], form: dict[str, Any]
) -> list[float | None]:
    """Rewards by a forward of the model for each completion."""
    rewards: list[float | None] = []
    for completion, query, items in zip(completions, columns["query"], columns["profile_items"], strict=True):
        answer = extract_answer(completion, **form)
        if answer is None:
            rewards.append(None)
            continue
        encoded = scorer.text.encode(scorer.text.texts(query, items, answer))
        with torch.no_grad():
            output = scorer.model(input_ids=torch.tensor([encoded.ids])).logits[0, 0]
        rewards.append((output / scorer.spec.temperature).sigmoid().item())
    return rewards


def made_distinct(completions: Sequence[Any], columns: dict[str, Any], form: dict[str, Any]) -> list[Any]:
    """Completions, no two with one answer to one prompt: the last word of one that was seen is replaced."""
    seen: set[tuple[str, str, str | None]] = set()
    found = []
    for completion, query, items in zip(completions, columns["query"], columns["profile_items"], strict=True):
        text, words = completion[-1]["content"], iter(TOPICS)
        while (asked := (query, str(items), extract_answer(text, **form))) in seen and asked[-1] is not None:
            text = " ".join([*text.split()[:-1], next(words)])
        seen.add(asked)
        found.append([{"role": "assistant", "content": text}])
    return found


def run(tiny: Tiny, folder: str, arms: Sequence[str], learning_rate: float) -> Steps:
    """Train from the warm-up, a step for each of the arms."""
    steps = Steps()

    class Mark(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            steps.ends.append(time.process_time() - steps.preparing)

    training = copy.copy(tiny.training)
    training.output_dir, training.max_steps, training.learning_rate = folder, len(arms), learning_rate
    trainer = PrLMTrainer(
        model=tiny.plan.model,
        reward_funcs=[*tiny.plan.reward_funcs, reward_in_turns(tiny, arms, steps)],
        args=training,
        train_dataset=tiny.plan.train_rows,
        peft_config=tiny.plan.peft_config,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Mark())
    trainer.train()
    return steps


def in_turns(rounds: int) -> list[str]:
    """The arms of every step: one step to begin with, then rounds in which each arm stands in another place."""
    return [ARMS[0], *(ARMS[(place + turn) % len(ARMS)] for turn in range(rounds) for place in range(len(ARMS)))]


def compared(steps: Steps) -> dict[str, dict[str, Any]]:
    """By arm, over all rounds but the first."""
    table = steps.table()[len(ARMS) :]
    rounds = [
        {arm: took for arm, took, _, _ in table[start : start + len(ARMS)]} for start in range(0, len(table), len(ARMS))
    ]
    found = {}
    for name in ARMS:
        over = [(one[name] - one["constant"]) / one["constant"] for one in rounds]
        of_arm = [(took, scoring, known) for arm, took, scoring, known in table if arm == name]
        found[name] = {
            "step_cpu_ms": round(1e3 * median(took for took, _, _ in of_arm), 1),
            "reward_cpu_ms": round(1e3 * median(scoring for _, scoring, _ in of_arm), 1),
            "overhead": round(median(over), 4),
            "overhead_quartiles": [round(value, 4) for value in quantiles(over, n=4)[::2]],
            "reward_over_rest": round(median(scoring / (took - scoring) for took, scoring, _ in of_arm), 4),
            "known_share": round(mean(known for _, _, known in of_arm), 4),
        }
    return found


def part_of_training(steps: Steps, part: slice) -> dict[str, float]:
    """Share of known scores, and the reward's CPU time over that of the rest, in some steps of a run."""
    _, took, scoring, known = zip(*steps.table()[part], strict=True)
    return {
        "known_share": round(mean(known), 4),
        "reward_cpu_ms": round(1e3 * mean(scoring), 1),
        "reward_over_rest": round(sum(scoring) / (sum(took) - sum(scoring)), 4),
    }


def main() -> None:
    """Measure all arms in turns and one run, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=31, help="of one step an arm, the first dropped; default: 31")
    parser.add_argument("--training_steps", type=int, default=80, help="of the second run; default: 80")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/scoring_overhead.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        tiny = setting(Path(scratch) / "setting", options.seed)
        turns = run(tiny, f"{scratch}/turns", in_turns(options.rounds), 0.0)
        tiny = replace(tiny, scorer=tiny.fresh())
        trained = run(tiny, f"{scratch}/training", ["training"] * options.training_steps, tiny.training.learning_rate)
    result = {
        "command": "./launch.sh benchmarks/scoring_overhead.py",
        "seed": options.seed,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"torch": torch.__version__, "trl": trl.__version__, "transformers": transformers.__version__},
        "completions_per_step": tiny.training.generation_batch_size,
        "rounds": options.rounds - 1,
        "arms": compared(turns),
        "training": {
            "steps": options.training_steps,
            "first_ten": part_of_training(trained, slice(10)),
            "last_ten": part_of_training(trained, slice(-10, None)),
            "all": part_of_training(trained, slice(None)),
        },
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
