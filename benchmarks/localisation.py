"""Does SHEAR's weight find the mistake? Scored on careless addition, where the wrong token is known.

    ./launch.sh benchmarks/localisation.py             3 warm-up seeds, writes benchmarks/localisation.json

Groups are sampled from the warmed-up model, without training. `matched` compares the weight at a wrong rollout's first
dropped carry with the weights of the group's correct rollouts at the same token index, which takes position out of the
comparison: the share of pairs in which the weight at the mistake is larger. Beside it stand the controls and the other
measures of `rlft.credit.diagnose`: outcomes permuted inside each group, token identity in place of states, entropy,
position. Every row is one warm-up seed, or all of them together; intervals are bootstraps over groups.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlft.credit.diagnose import LabelledGroup, diagnose, diagnosis_record, diagnosis_text
from rlft.evaluate.metrics import final_answer
from rlft.tiny.addition import Problem, first_dropped_carry, problems
from rlft.tiny.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
GROUP = 8


def sample_groups(seed: int, count: int) -> list[LabelledGroup]:
    """`count` problems with 8 rollouts each, the first dropped carry of each wrong one as its first error."""
    folder = TASKS["tiny/addition"].start(seed)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(seed)
    asked = problems(count, seed=5_000 + seed)
    prompts = tokenizer([p.prompt for p in asked for _ in range(GROUP)], return_tensors="pt")
    length = prompts.input_ids.size(1)
    with torch.no_grad():
        ids = model.generate(**prompts, do_sample=True, top_k=0, max_new_tokens=40)
        hidden = model.base_model(ids).last_hidden_state
        entropy = torch.distributions.Categorical(logits=model.lm_head(hidden[:, length - 1 : -1])).entropy()
    rollouts = []
    for row, states, uncertain in zip(ids[:, length:], hidden[:, length:], entropy, strict=True):
        ended = (row == tokenizer.eos_token_id).nonzero()
        size = int(ended[0]) + 1 if len(ended) else len(row)
        rollouts.append((row[:size].tolist(), states[:size], uncertain[:size].tolist()))
    return [
        labelled(f"{seed}-{number}", problem, rollouts[number * GROUP : (number + 1) * GROUP], tokenizer)
        for number, problem in enumerate(asked)
    ]


def labelled(name: str, problem: Problem, rollouts: list[Any], tokenizer: Any) -> LabelledGroup:
    """One group with outcomes and first errors."""
    texts = tokenizer.batch_decode([ids for ids, _, _ in rollouts], skip_special_tokens=True)
    places = [first_dropped_carry(problem, text) for text in texts]
    correct = [final_answer(text) == problem.answer for text in texts]
    return LabelledGroup(
        name=name,
        hidden=[states for _, states, _ in rollouts],
        token_ids=[ids for ids, _, _ in rollouts],
        correct=correct,
        # The tag is one token, everything behind it one a character.
        first_error=[
            None if right or place is None else place - len("<think>") + 1
            for right, place in zip(correct, places, strict=True)
        ],
        entropy=[uncertain for _, _, uncertain in rollouts],
    )


def main() -> None:
    """Diagnose each warm-up seed, and all together, with two sizes of span."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--permutations", type=int, default=100)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/localisation.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sampled = {str(seed): sample_groups(seed, arguments.problems) for seed in range(arguments.seeds)}
    started = time.process_time()
    sampled["all"] = [group for of_seed in sampled.values() for group in of_seed]
    rows = []
    for window, stride in ((8, 2), (4, 1), (1, 1)):
        for seed, groups in sampled.items():
            found = diagnose(
                groups,
                window=window,
                stride=stride,
                permutations=arguments.permutations,
                resamples=arguments.resamples,
            )
            rows.append({"seed": seed} | diagnosis_record(found))
            print(f"\nwarm-up seed {seed}\n{diagnosis_text(found)}", flush=True)
    cpu_seconds = round(time.process_time() - started, 1)
    lines = ",\n".join(json.dumps(rounded(row)) for row in rows)
    head = f'"command": "./launch.sh benchmarks/localisation.py", "cpu_seconds_of_diagnosis": {cpu_seconds}'
    arguments.output.write_text(f'{{{head}, "rows": [\n{lines}\n]}}\n')


def rounded(value: Any) -> Any:
    """Four decimals; what is not defined as null."""
    if isinstance(value, float):
        return round(value, 4) if value == value else None
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    main()
