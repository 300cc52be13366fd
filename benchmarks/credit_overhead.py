"""What does credit cost? A SHEAR step over a plain TRL GRPO step, by where the hidden states come from.

    ./launch.sh benchmarks/credit_overhead.py                     CPU: end to end on the embedded task, then replayed
    ./launch.sh benchmarks/credit_overhead.py --device cuda --shape 1.5b --tokens 1024 --window 100 --stride 25 \\
        --completions 64 --arms grpo shear --modes end_to_end     CUDA: wall time, random weights of that shape

`end_to_end` samples: on the CPU from the embedded task's warmed-up model with its recipe's setting and reward, else a
fixed number of tokens with every second completion right. `replay` gives all arms the same completions of random
tokens, so that nothing is sampled: an upper bound. Weights do not move (learning rate 0) and every turn has its seed:
all arms of a turn see the same tokens. All arms stay warm in one process and take turns step by step, in the order
A B C, C B A; each of SHEAR's is divided by the plain arm of the same turn. Reported: the median ratio over turns with
its 95 % bootstrap interval, and the share of the plain arm's time that the stages of credit alone took; process CPU
seconds on the CPU, wall seconds on CUDA.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from learning import ROOT
from peft import LoraConfig
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from turns import STAGES, Arm, Stopwatch, ratio

import rlft.trainers.shear
from rlft import SHEARConfig, SHEARTrainer
from rlft.rewards import load_rewards
from rlft.tiny.tasks import TASKS
from rlft.tiny.tokenizer import char_tokenizer

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 96, "num_hidden_layers": 3, "intermediate_size": 288, "num_attention_heads": 4},
    "0.5b": {"hidden_size": 896, "num_hidden_layers": 24, "intermediate_size": 4864, "num_attention_heads": 14},
    "1.5b": {"hidden_size": 1536, "num_hidden_layers": 28, "intermediate_size": 8960, "num_attention_heads": 12},
    "7b": {"hidden_size": 3584, "num_hidden_layers": 28, "intermediate_size": 18944, "num_attention_heads": 28},
}
VOCABULARY = {"tiny": 128, "0.5b": 151_936, "1.5b": 151_936, "7b": 152_064}
LAYOUTS: dict[str, dict[str, int]] = {
    "whole": {},
    "split": {"steps_per_generation": 2, "gradient_accumulation_steps": 2},
    "scored": {"steps_per_generation": 2, "gradient_accumulation_steps": 1},
}
"""One micro-batch a generation batch; two in one update; two in two updates, for which TRL scores the policy first."""
ARMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "grpo": ("whole", "grpo", {}),
    "constant": ("whole", "grpo", {"credit": "constant"}),
    "shear": ("whole", "grpo", {}),
    "shear_generate": ("whole", "grpo", {"states": "generate"}),
    "shear_forward": ("whole", "grpo", {"states": "forward"}),
    "grpo_split": ("split", "grpo_split", {}),
    "shear_split": ("split", "grpo_split", {}),
    "shear_split_forward": ("split", "grpo_split", {"states": "forward"}),
    "grpo_scored": ("scored", "grpo_scored", {}),
    "shear_scored": ("scored", "grpo_scored", {}),
}
"""Layout, the plain arm it is compared with, and options; `shear` leaves the source of states to `auto`."""


def model_of(shape: str, dtype: torch.dtype) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        **SHAPES[shape],
        vocab_size=VOCABULARY[shape],
        num_key_value_heads=4 if shape == "7b" else 2,
        tie_word_embeddings=shape != "7b",
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


def settings(layout: dict[str, int], options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """What the plain arm and SHEAR's are configured with alike."""
    cuda = options.device == "cuda"
    return {
        "output_dir": folder,
        "use_cpu": not cuda,
        "bf16": cuda,
        "gradient_checkpointing": cuda,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1_000_000,
        "disable_tqdm": True,
        "max_steps": 1_000_000,
        "per_device_train_batch_size": options.completions // layout.get("steps_per_generation", 1),
        "num_generations": 8,
        "max_completion_length": options.tokens,
        "learning_rate": 0.0,
        "lr_scheduler_type": "constant",
        "epsilon_high": 0.28,
        **layout,
    }


def trainer_of(name: str, mode: str, options: argparse.Namespace, folder: str) -> GRPOTrainer:
    """The trainer of an arm."""
    layout, _, own = ARMS[name]
    config = settings(LAYOUTS[layout], options, f"{folder}/{mode}-{name}")
    rows, reward = [{"prompt": "12+34="}] * 4096, alternate
    model: Any = None
    if mode == "end_to_end" and options.shape == "tiny":
        task = TASKS["tiny/addition"]
        model, rows, reward = str(task.start(0)), task.rows(4096, 0), load_rewards(["exact_match"])[0]
    elif mode == "end_to_end":
        config["generation_kwargs"] = {"min_new_tokens": options.tokens}
    arguments: dict[str, Any] = {
        "model": model or model_of(options.shape, torch.bfloat16 if config["bf16"] else torch.float32),
        "reward_funcs": reward,
        "train_dataset": Dataset.from_list(rows),
        "processing_class": None if model else char_tokenizer(),
        "rollout_func": replay(options.tokens, VOCABULARY[options.shape]) if mode == "replay" else None,
        "peft_config": LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    }
    if name.startswith("grpo"):
        return GRPOTrainer(**arguments, args=GRPOConfig(**config))
    span = {"window": options.window, "stride": options.stride, "normalize": "rollout", "distance": options.distance}
    return SHEARTrainer(**arguments, args=SHEARConfig(**config, **span, **own))


def measure(mode: str, names: list[str], options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Seconds by stage of every arm in every turn after the first ones, and the ratios."""
    watch = Stopwatch(time.perf_counter if options.device == "cuda" else time.process_time)
    for name, inner in _UNWATCHED.items():
        setattr(rlft.trainers.shear, name, inner)
    watch.watch(rlft.trainers.shear, "weigh", "weights")
    watch.watch(rlft.trainers.shear, "rollout_rows", "record")
    arms = {}
    for name in names:
        layout = LAYOUTS[ARMS[name][0]]
        updates = layout.get("steps_per_generation", 1) // layout.get("gradient_accumulation_steps", 1)
        arms[name] = Arm(trainer_of(name, mode, options, folder), updates, watch)
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(options.warm_up + options.turns):
        for name in names if turn % 2 else reversed(names):
            torch.manual_seed(turn)
            seconds = arms[name].turn()
            if turn >= options.warm_up:
                turns[name].append(seconds)
        print(mode, turn, {name: round(sum(seen[-1].values()), 3) for name, seen in turns.items() if seen}, flush=True)
    return {name: summary(turns[name], turns[ARMS[name][1]], arms[name].trainer) for name in names}


_UNWATCHED = {name: getattr(rlft.trainers.shear, name) for name in ("weigh", "rollout_rows")}


def summary(turns: list[dict[str, float]], plain: list[dict[str, float]], trainer: Any) -> dict[str, Any]:
    totals, bases = ([sum(turn.values()) for turn in seen] for seen in (turns, plain))
    said: dict[str, Any] = {
        "seconds": statistics.median(totals),
        "stages": {stage: statistics.median(turn[stage] for turn in turns) for stage in STAGES},
    }
    states = getattr(trainer, "states", None)
    if turns is not plain:
        said["states_from"] = states.came_from if states else None
        said["ratio"] = ratio([total / base for total, base in zip(totals, bases, strict=True)])
        credit = [sum(turn[stage] for stage in ("states", "weights", "record")) for turn in turns]
        said["credit_share"] = ratio([part / base for part, base in zip(credit, bases, strict=True)])
        mixed = trainer._metrics["train"].get("shear/frac_mixed_groups", [])
        said["mixed_groups"] = statistics.fmean(mixed) if mixed else None
    return said


def main() -> None:
    """Measure all arms in turns and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--stride", type=int, default=2)
    parser.add_argument("--distance", default="wasserstein")
    parser.add_argument("--completions", type=int, default=128)
    parser.add_argument("--warm_up", type=int, default=3)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--modes", nargs="+", choices=["end_to_end", "replay"], default=["end_to_end", "replay"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/credit_overhead.json")
    options = parser.parse_args()
    torch.set_num_threads(1 if options.device == "cpu" else os.cpu_count() or 1)
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    result: dict[str, Any] = {
        "settings": {key: value for key, value in vars(options).items() if key != "output"},
        "clock": "wall" if options.device == "cuda" else "process CPU",
        "machine": torch.cuda.get_device_name() if options.device == "cuda" else platform.machine(),
        "versions": {"torch": torch.__version__, "trl": trl.__version__, "transformers": transformers.__version__},
    }
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for mode in options.modes:
            unsampled = mode == "replay"
            names = [name for name in options.arms if not (unsampled and ARMS[name][2].get("states") == "generate")]
            result[mode] = measure(mode, names, options, folder)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1), flush=True)
    os._exit(0)  # the arms' threads still wait


if __name__ == "__main__":
    main()
