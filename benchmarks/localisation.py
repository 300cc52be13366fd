"""Does SHEAR's weight find the mistake? Scored on careless addition, where the wrong token is known.

    ./launch.sh benchmarks/localisation.py             3 warm-up seeds, writes benchmarks/localisation.json

Groups are sampled from the warmed-up model, without training. In every mixed group, the weight at a wrong rollout's
first dropped carry is compared with the weights of the group's correct rollouts at the *same token index*, which takes
position out of the comparison. AUC = P(weight at the mistake > weight at the same place of a correct rollout), 0.5 is
chance. The control shuffles the outcomes inside each group before the weights are computed.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlft.credit import shear_weights
from rlft.evaluate.metrics import final_answer
from rlft.tiny.addition import Problem, first_dropped_carry, problems
from rlft.tiny.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
GROUP = 8
Rollout = tuple[str, torch.Tensor]


def sample_groups(seed: int, count: int) -> list[tuple[Problem, list[Rollout]]]:
    """`count` problems with 8 rollouts each: the text, and the states (T, H) of its tokens."""
    folder = TASKS["tiny/addition"].start(seed)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(seed)
    asked = problems(count, seed=5_000 + seed)
    prompts = tokenizer([p.prompt for p in asked for _ in range(GROUP)], return_tensors="pt")
    length = prompts.input_ids.size(1)
    with torch.no_grad():
        ids = model.generate(**prompts, do_sample=True, top_k=0, max_new_tokens=40)
        hidden = model.base_model(ids).last_hidden_state
    rollouts = []
    for row, states in zip(ids[:, length:], hidden[:, length:], strict=True):
        ended = (row == tokenizer.eos_token_id).nonzero()
        size = int(ended[0]) + 1 if len(ended) else len(row)
        rollouts.append((tokenizer.decode(row[:size], skip_special_tokens=True), states[:size]))
    return [(p, rollouts[i * GROUP : (i + 1) * GROUP]) for i, p in enumerate(asked)]


def comparisons(problem: Problem, group: list[Rollout], outcomes: list[bool], options: dict[str, Any]) -> list[float]:
    """1, 0.5 or 0 for each pair of a dropped carry and the same place in a correct rollout."""
    weights = shear_weights([states for _, states in group], outcomes, **options)
    correct = [final_answer(text) == problem.answer for text, _ in group]
    found = []
    for (text, _), weight_T, right in zip(group, weights, correct, strict=True):
        place = None if right else first_dropped_carry(problem, text)
        if place is None:
            continue
        token = place - len("<think>") + 1  # the tag is one token, everything behind it one a character
        for other_T, other_right in zip(weights, correct, strict=True):
            if other_right and token < len(other_T):
                here, there = float(weight_T[token]), float(other_T[token])
                found.append(0.5 if here == there else float(here > there))
    return found


def main() -> None:
    """Score real and shuffled outcomes over several warm-up seeds and window sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/localisation.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng, rows = random.Random(0), []
    for seed in range(arguments.seeds):
        groups = sample_groups(seed, arguments.problems)
        for window, stride in ((8, 2), (4, 1)):
            scores: dict[str, list[float]] = {"real": [], "shuffled": []}
            for problem, group in groups:
                real = [final_answer(text) == problem.answer for text, _ in group]
                options = {"window": window, "stride": stride}
                scores["real"] += comparisons(problem, group, real, options)
                scores["shuffled"] += comparisons(problem, group, rng.sample(real, len(real)), options)
            means = {name: sum(values) / len(values) for name, values in scores.items()}
            rows.append({"seed": seed, "window": window, "stride": stride, "pairs": len(scores["real"])} | means)
            print(rows[-1], flush=True)
    result = {"command": "./launch.sh benchmarks/localisation.py", "auc": rows}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
