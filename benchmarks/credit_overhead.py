"""What does credit cost? Step time of SHEAR over plain GRPO on the same rollouts, in one warm process.

    ./launch.sh benchmarks/credit_overhead.py                          CPU, tiny shape
    ./launch.sh benchmarks/credit_overhead.py --shape 0.5b --tokens 1024 --device cuda

Models have random weights of the named shape: speed does not depend on their values, but pruning in the transport
search does (random states share a token backbone). Every step replays the same completions of fixed length, so sampling
is left out and the ratio is an upper bound of the end-to-end one. Arms take turns A B B A; the first steps are dropped.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM

from rlft import SHEARConfig, SHEARTrainer
from rlft.tiny.tokenizer import char_tokenizer

ROOT = Path(__file__).resolve().parents[1]
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 96, "num_hidden_layers": 3, "intermediate_size": 288, "num_attention_heads": 4},
    "0.5b": {"hidden_size": 896, "num_hidden_layers": 24, "intermediate_size": 4864, "num_attention_heads": 14},
    "1.5b": {"hidden_size": 1536, "num_hidden_layers": 28, "intermediate_size": 8960, "num_attention_heads": 12},
}
VOCABULARY = {"tiny": 128, "0.5b": 151_936, "1.5b": 151_936}
ARMS: dict[str, dict[str, Any]] = {
    "constant": {"credit": "constant"},
    "shear": {"credit": "shear"},
    "shear_chamfer": {"credit": "shear", "distance": "chamfer"},
}


def model_of(shape: str, dtype: torch.dtype) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        **SHAPES[shape],
        vocab_size=VOCABULARY[shape],
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    )
    return Qwen2ForCausalLM(config).to(dtype)


def replay(tokens: int, vocabulary: int) -> Any:
    """A rollout function that gives the same completions every time; group mates share their first third."""

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(4, min(vocabulary, 30_000), (len(prompts), tokens), generator=generator)
        group = trainer.num_generations
        ids[:, : tokens // 3] = ids[::group, : tokens // 3].repeat_interleave(group, 0)
        tokenized = trainer.processing_class(list(prompts)).input_ids
        return {"prompt_ids": tokenized, "completion_ids": ids.tolist(), "logprobs": None}

    return rollout


def alternate(completions: list[str], **columns: Any) -> list[float]:
    """Every second rollout is correct: all groups are mixed."""
    return [float(i % 2) for i in range(len(completions))]


def trainer_of(arm: str, options: argparse.Namespace, folder: str) -> SHEARTrainer:
    cuda = options.device == "cuda"
    config = SHEARConfig(
        output_dir=f"{folder}/{arm}",
        **ARMS[arm],
        window=options.window,
        stride=options.stride,
        use_cpu=not cuda,
        bf16=cuda,
        gradient_checkpointing=cuda,
        report_to="none",
        save_strategy="no",
        logging_steps=1_000_000,
        disable_tqdm=True,
        max_steps=options.steps,
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=options.completions // options.micro_batch,
        num_generations=8,
        max_completion_length=options.tokens,
        record_rollouts=False,
        learning_rate=0.0,
    )
    return SHEARTrainer(
        model_of(options.shape, torch.bfloat16 if cuda else torch.float32),
        alternate,
        config,
        train_dataset=Dataset.from_list([{"prompt": "12+34="}] * 4096),
        processing_class=char_tokenizer(),
        rollout_func=replay(options.tokens, VOCABULARY[options.shape]),
    )


def timed_steps(trainer: SHEARTrainer, drop: int) -> list[dict[str, float]]:
    """Wall and CPU seconds of every optimiser step after the first `drop`, and the credit seconds within."""
    marks: list[tuple[float, float, float]] = []

    class Mark(transformers.TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            credit = sum(trainer._metrics["train"].get("shear/credit_seconds", [0.0]))
            marks.append((time.perf_counter(), time.process_time(), credit))

    trainer.add_callback(Mark())
    trainer.train()
    pairs = list(zip(marks, marks[1:], strict=False))[drop:]
    return [{"wall": b[0] - a[0], "cpu": b[1] - a[1], "credit": b[2] - a[2]} for a, b in pairs]


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    """Measure all arms in turns and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--stride", type=int, default=2)
    parser.add_argument("--completions", type=int, default=128)
    parser.add_argument("--micro_batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["constant", "shear"])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/credit_overhead_cpu.json")
    options = parser.parse_args()
    torch.set_num_threads(1 if options.device == "cpu" else os.cpu_count() or 1)
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    seen: dict[str, list[dict[str, float]]] = {arm: [] for arm in options.arms}
    with tempfile.TemporaryDirectory() as folder:
        for arm in [*options.arms, *reversed(options.arms)]:
            seen[arm] += timed_steps(trainer_of(arm, options, folder), drop=2)
            print(arm, json.dumps(seen[arm][-1]), flush=True)
    base = options.arms[0]
    result = {
        "settings": {key: value for key, value in vars(options).items() if key != "output"},
        "machine": torch.cuda.get_device_name() if options.device == "cuda" else platform.machine(),
        "versions": {"torch": torch.__version__, "trl": trl.__version__, "transformers": transformers.__version__},
        "median_seconds": {arm: {k: median([s[k] for s in steps]) for k in steps[0]} for arm, steps in seen.items()},
        "steps_measured": {arm: len(steps) for arm, steps in seen.items()},
    }
    unit = "cpu" if options.device == "cpu" else "wall"
    medians = result["median_seconds"]
    result["ratio_to_" + base] = {arm: medians[arm][unit] / medians[base][unit] for arm in options.arms}  # type: ignore
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
