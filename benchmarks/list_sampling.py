"""What eight lists of one prompt cost against one list, and against reading the prompt alone.

    ./launch.sh benchmarks/list_sampling.py             writes benchmarks/list_sampling.json

A random Qwen3 of a middling size, a prompt of about 3,500 tokens with 20 candidates, K = 5, lists held to their grammar
(a random model writes none otherwise). Two tokenizers: a word each, where a list has 10 tokens, and a character each,
where it has about 30. CPU seconds of one thread; the arms alternate within a repetition, in turning order, and the
ratios are taken within it.
"""

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CANDIDATES, SIZE, SAMPLES = 20, 5, 8
MODEL: dict[str, Any] = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2}


def word_case() -> tuple[Any, Any]:
    """A tokenizer of words, and a row whose passages have 170 of them."""
    from rlft.tiny.word_tokenizer import word_tokenizer
    from rlft.tiny.words import SEARCH_WORDS

    more = [word for n in range(1, CANDIDATES + 1) if (word := f"[{n}]") not in SEARCH_WORDS]
    rng = random.Random(0)
    plain = [word for word in SEARCH_WORDS if word.isalpha()]
    return word_tokenizer([*SEARCH_WORDS, *more]), row_of(lambda: " ".join(rng.choices(plain, k=172)))


def character_case() -> tuple[Any, Any]:
    """A tokenizer of characters, and a row whose passages have as many."""
    from rlft.tiny.tokenizer import char_tokenizer

    rng = random.Random(0)
    return char_tokenizer(), row_of(lambda: "".join(rng.choices("abcdefghij klmno", k=168)))


def row_of(text: Callable[[], str]) -> dict[str, Any]:
    """A row of candidates with made-up texts."""
    return {
        "id": "q",
        "question": "who ?",
        "candidates": [{"id": str(place), "text": text()} for place in range(CANDIDATES)],
    }


def arms_of(tokenizer: Any, row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is timed, and facts about the case."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from rlft.rollouts.frame import ChatFrame
    from rlft.rollouts.list_text import ListOptions
    from rlft.rollouts.permutation import PermutationRollout
    from rlft.rollouts.policy import Draw, Sampling
    from rlft.rollouts.transformers_policy import TransformersPolicy

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen3Config(
        **MODEL, vocab_size=len(tokenizer), intermediate_size=1024, head_dim=32, max_position_embeddings=4096
    )
    frame = ChatFrame(tokenizer)
    policy = TransformersPolicy(Qwen3ForCausalLM(config), frame.stop_ids, tokenizer.pad_token_id)
    options = ListOptions(size=SIZE, constrained=True, instruction="{passages} {question}", passage="[{n}] {text}")

    def lists(samples: int, seed: int) -> list[Any]:
        return PermutationRollout(frame, options, samples=samples, seed=seed)([row], policy, Sampling())

    first = lists(SAMPLES, 0)
    prompt_ids = first[0].prompt_ids
    facts = {
        "prompt_tokens": len(prompt_ids),
        "list_tokens": [len(one.completion_ids) for one in first],
        "different_lists": len({tuple(one.fields["list"]) for one in first}),
    }
    assert all(one.fields["fault"] is None for one in first)
    return {
        "eight lists": lambda seed: lists(SAMPLES, seed),
        "one list": lambda seed: lists(1, seed),
        "the prompt alone": lambda seed: policy.generate([Draw(prompt_ids, seed, 1)], Sampling()),
    }, facts


def measured(arms: dict[str, Any], repetitions: int) -> dict[str, Any]:
    """CPU seconds of each arm, and the ratios within each repetition."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for repetition in range(repetitions):
        for turn in range(len(names)):
            name = names[(repetition + turn) % len(names)]
            started = time.process_time()
            arms[name](repetition)
            seconds[name].append(time.process_time() - started)
    ratios = {
        other: [round(eight / one, 3) for eight, one in zip(seconds["eight lists"], seconds[other], strict=True)]
        for other in names[1:]
    }
    return {
        "cpu_seconds_median": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "eight_lists_over": {
            name: {"median": round(statistics.median(values), 3), "least": min(values), "most": max(values)}
            for name, values in ratios.items()
        },
    }


def main() -> None:
    """Measure both cases, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/list_sampling.json")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "command": "./launch.sh benchmarks/list_sampling.py",
        "cores": os.cpu_count(),
        "repetitions": options.repetitions,
        "model": MODEL,
        "candidates": CANDIDATES,
        "size": SIZE,
        "samples": SAMPLES,
    }
    for name, case in (("words", word_case), ("characters", character_case)):
        arms, facts = arms_of(*case())
        for arm in arms.values():
            arm(0)  # first-use costs
        result[name] = facts | measured(arms, options.repetitions)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
