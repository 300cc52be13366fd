"""What does sharing save? CPU time to score gold answers after K = 8 samples of one question, three ways.

    ./launch.sh benchmarks/answer_scoring.py

    separate   a plain forward of the model for every sample and answer: `model(context + answer)`
    padded     one plain forward of all of them, padded to the longest
    shared     rlft.em.score.score_answers, called with the one question

Contexts: `world` are searches of the careless searcher in the toy world (about 105 tokens, 62 where it stops early),
the last answer left open. `flat` are random tokens of which a beginning is common to all samples and nothing else is,
which is the worst case of a given beginning: samples of a model branch later one by one. Models have random weights.
Arms take turns; every question is another; the first round is dropped.
"""

import argparse
import json
import platform
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlft.em.score import score_answers
from rlft.tiny.lookup import Lookup
from rlft.tiny.questions import TWO_HOP, question
from rlft.tiny.searcher import demonstrate
from rlft.tiny.word_tokenizer import word_tokenizer
from rlft.tiny.words import CITIES
from rlft.tiny.world import World

ROOT = Path(__file__).resolve().parents[1]
K = 8
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 256, "vocab_size": 200},
    "middle": {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 2048, "vocab_size": 8000},
}
Scores = list[list[float]]


@dataclass(frozen=True)
class Case:
    """What is measured."""

    shape: str
    contexts: str
    tokens: int
    shared: int
    aliases: int
    rounds: int


CASES = [
    *(Case("tiny", "world", 105, 0, aliases, 24) for aliases in (1, 3)),
    *(Case("tiny", "flat", 100, shared, aliases, 24) for shared in (30, 60) for aliases in (1, 3)),
    *(Case("middle", "flat", 600, 300, aliases, 4) for aliases in (1, 3)),
]


def model_of(shape: str) -> nn.Module:
    torch.manual_seed(0)
    heads = SHAPES[shape]["hidden_size"] // 64 * 2
    config = Qwen3Config(
        **SHAPES[shape],
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=SHAPES[shape]["hidden_size"] // heads,
        max_position_embeddings=1024,
        initializer_range=0.06,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).eval()


def world_contexts(seed: int) -> list[list[int]]:
    """K searches of the careless searcher for one question, up to the answer."""
    rng, tokenizer, world = random.Random(seed), word_tokenizer(), World(seed, 300, 75)
    kind = rng.choice(TWO_HOP)
    row = question(world, kind, rng.choice(world.people if kind.about == "people" else world.companies))
    search = Lookup(world.passages)
    conversations = [demonstrate(row, search, rng, rng.choice(CITIES))[:-1] for _ in range(K)]
    texts = [
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for turns in conversations
    ]
    return tokenizer(texts).input_ids


def flat_contexts(case: Case, seed: int) -> list[list[int]]:
    """K contexts of about `tokens` random tokens with the first `shared` in common."""
    rng, vocabulary = random.Random(seed), SHAPES[case.shape]["vocab_size"]
    beginning = [rng.randrange(vocabulary) for _ in range(case.shared)]
    lengths = [round(case.tokens * rng.uniform(0.95, 1.05)) - case.shared for _ in range(K)]
    return [beginning + [rng.randrange(vocabulary) for _ in range(length)] for length in lengths]


def separate(model: nn.Module, contexts: list[list[int]], answers: list[list[int]]) -> Scores:
    def one(context: list[int], answer: list[int]) -> float:
        logits = model(torch.tensor([context + answer])).logits[0, len(context) - 1 : -1]
        return picked(logits, answer)

    with torch.no_grad():
        return [[one(context, answer) for answer in answers] for context in contexts]


def padded(model: nn.Module, contexts: list[list[int]], answers: list[list[int]]) -> Scores:
    rows = [context + answer for context in contexts for answer in answers]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.no_grad():
        logits = iter(model(ids, attention_mask=mask).logits)
    return [
        [picked(next(logits)[len(context) - 1 : len(context) + len(answer) - 1], answer) for answer in answers]
        for context in contexts
    ]


def shared(model: nn.Module, contexts: list[list[int]], answers: list[list[int]]) -> Scores:
    return score_answers(model, contexts, [answers] * len(contexts), pad_id=0)


def picked(logits: torch.Tensor, answer: list[int]) -> float:
    return logits.float().log_softmax(-1).gather(1, torch.tensor(answer).unsqueeze(1)).sum().item()


ARMS: dict[str, Callable[[nn.Module, list[list[int]], list[list[int]]], Scores]] = {
    "separate": separate,
    "padded": padded,
    "shared": shared,
}


def measure(case: Case) -> dict[str, Any]:
    """Median CPU seconds of every arm over the rounds, after checking that they agree."""
    model, seconds = model_of(case.shape), {arm: list[float]() for arm in ARMS}
    gap, tokens, distinct = 0.0, [], []
    for seed in range(case.rounds + 1):
        contexts = world_contexts(seed) if case.contexts == "world" else flat_contexts(case, seed)
        rng = random.Random(-seed)
        answers = [[rng.randrange(SHAPES[case.shape]["vocab_size"]) for _ in range(3)] for _ in range(case.aliases)]
        found = {}
        for arm in [*ARMS] if seed % 2 else [*reversed(ARMS)]:
            started = time.process_time()
            found[arm] = ARMS[arm](model, contexts, answers)
            seconds[arm].append(time.process_time() - started)
        for arm in ARMS:
            gap = max(gap, (torch.tensor(found[arm]) - torch.tensor(found["separate"])).abs().max().item())
        tokens.append(sum(map(len, contexts)) / K)
        distinct.append(len({tuple(context[:n]) for context in contexts for n in range(1, len(context) + 1)}))
    medians = {arm: sorted(values[1:])[case.rounds // 2] for arm, values in seconds.items()}
    return {
        **vars(case),
        "mean_context_tokens": sum(tokens) / len(tokens),
        "distinct_share_of_tokens": sum(distinct) / sum(tokens) / K,
        "largest_difference_nats": gap,
        "median_cpu_seconds": medians,
        "shared_to_separate": medians["shared"] / medians["separate"],
        "shared_to_padded": medians["shared"] / medians["padded"],
    }


def main() -> None:
    """Measure all cases and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/answer_scoring.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    for case in CASES:
        cases.append(measure(case))
        print(json.dumps(cases[-1]), flush=True)
    result = {
        "samples": K,
        "machine": platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "models": SHAPES,
        "cases": cases,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
