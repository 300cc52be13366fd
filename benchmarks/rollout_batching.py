"""How much batching gives: search trajectories per CPU second, all questions together against one question at a time.

    ./launch.sh benchmarks/rollout_batching.py          writes benchmarks/rollout_batching.json

The same engine, model, questions and seeds in one run; the trajectories must come out the same. A question alone has
its K samples in one batch (`one question`), or one trajectory at a time (`one trajectory`). CPU seconds of one thread;
passes of the arms alternate, and the median ratio counts.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = 8
SEARCH: dict[str, Any] = {
    "max_hops": 3,
    "passages": 3,
    "max_turn_tokens": 24,
    "max_answer_tokens": 6,
    "max_tokens": 256,
    "instruction": "{question}",
    "passage": "[{n}] {text}",
    "answer_request": "answer ?",
}
"""What a search looks like in the tiny setting: fields of `SearchOptions`."""


def setting() -> tuple[Any, Any, Any, list[dict[str, Any]]]:
    """Rollout factory, policy factory, sampling and questions of the tiny setting."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlft.retrieval import BM25Retriever
    from rlft.rollouts.frame import ChatFrame
    from rlft.rollouts.policy import Sampling
    from rlft.rollouts.search import SearchRollout
    from rlft.rollouts.search_text import MARKERS, SearchOptions
    from rlft.rollouts.transformers_policy import TransformersPolicy
    from rlft.tiny.tasks import TASKS

    torch.set_num_threads(1)
    task: Any = TASKS["tiny/search"]
    folder = task.start(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    frame = ChatFrame(tokenizer, markers=MARKERS)
    options = SearchOptions(**SEARCH)
    retriever = BM25Retriever.over(task.passages())

    def rollout(samples: int) -> SearchRollout:
        return SearchRollout(frame, retriever, options, answer="open", samples=samples)

    def policy(batch_size: int) -> TransformersPolicy:
        return TransformersPolicy(model, frame.stop_ids, tokenizer.pad_token_id, batch_size, keep_tokens=200_000)

    return rollout, policy, Sampling(), task.rows(128, 3, "train")


def timed(work: Callable[[], list[Any]]) -> tuple[float, list[Any]]:
    """CPU seconds of this process, and what the work gave."""
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def main() -> None:
    """Alternate the arms, compare outputs, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--questions", type=int, default=128)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/rollout_batching.json")
    options = parser.parse_args()
    rollout, policy, sampling, rows = setting()
    rows = rows[: options.questions]
    arms: dict[str, Callable[[], list[Any]]] = {
        "together, batches of 1024": lambda: rollout(SAMPLES)(rows, policy(1024), sampling),
        "together, batches of 256": lambda: rollout(SAMPLES)(rows, policy(256), sampling),
        "together, batches of 64": lambda: rollout(SAMPLES)(rows, policy(64), sampling),
        "one question": lambda: [one for row in rows for one in rollout(SAMPLES)([row], policy(SAMPLES), sampling)],
        "one trajectory": lambda: rollout(SAMPLES)(rows, policy(1), sampling),
    }
    rollout(SAMPLES)(rows[:8], policy(64), sampling)  # first-use costs
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    same: dict[str, float] = {}
    reference: list[Any] = []
    for _ in range(options.passes):
        for name, work in arms.items():
            spent, found = timed(work)
            seconds[name].append(spent)
            ids = [one.completion_ids for one in found]
            reference = reference or ids
            same[name] = sum(a == b for a, b in zip(ids, reference, strict=True)) / len(ids)
            print(f"{name}: {len(ids) / spent:.0f} trajectories per CPU second, equal {same[name]:.4f}", flush=True)
    base = seconds["together, batches of 1024"]
    result = {
        "command": "./launch.sh benchmarks/rollout_batching.py",
        "cores": os.cpu_count(),
        "trajectories": len(rows) * SAMPLES,
        "trajectories_per_cpu_second": {
            name: round(len(rows) * SAMPLES / statistics.median(values), 1) for name, values in seconds.items()
        },
        "times_slower_than_batches_of_1024": {
            name: round(statistics.median(a / b for a, b in zip(values, base, strict=True)), 2)
            for name, values in seconds.items()
        },
        "equal_trajectories": same,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
