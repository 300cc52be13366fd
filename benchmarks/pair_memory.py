"""What does the second adapter cost? Peak memory of sampling and scoring, and of a whole DRO round.

    ./launch.sh benchmarks/pair_memory.py      writes benchmarks/pair_memory.json

Each arm runs in a process of its own; its figure is the peak resident memory above what the process held before it
loaded a model. The base is a random Qwen3 of 30 M parameters in fp32 (113 MiB), LoRA rank 16 on all linear layers.
    one        samples and scores with one adapter on the base; in a whole round, then trains it
    pair       samples with the selector and scores with the generator on one base; then trains each, alone on it
    two_bases  the same with a base for each: what two separately loaded models take
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from learning import ROOT

ARMS = ("one", "pair", "two_bases")
PHASES = ("sampling", "round")
ROWS, LENGTH, BATCH = 16, 128, 4


def measure(arm: str, phase: str, folder: Path) -> dict[str, float]:
    """One arm, in this process; `sampling` ends before the M-steps."""
    import torch
    from peft import LoraConfig
    from transformers import AutoTokenizer

    from rlft.trainers.pair_models import PairModels
    from rlft.trainers.round_models import RoundModels

    torch.set_num_threads(1)
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear")
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    roles = ("selector",) if arm == "one" else ("selector", "generator")
    models = {role: RoundModels(str(folder / "base"), lora, {}, None) for role in roles}
    for role, one in models.items():
        one.start(0).save_pretrained(str(folder / role))
        one.forget()
    held = resident()
    pair = PairModels(models) if arm == "pair" else None
    for role in roles:
        work(pair.at(folder / role) if pair else models[role].at(folder / role), tokenizer)
    holders: list[Any] = [pair] if pair else list(models.values())
    for one in holders:
        one.forget()
    for role in roles if phase == "round" else ():
        fit(models[role].load(folder / role), tokenizer, folder)
    return {"held_mib": held, "peak_mib": peak(), "above_mib": peak() - held}


def work(model: Any, tokenizer: Any) -> None:
    """Samples and scores."""
    from rlft.em.score import score_answers
    from rlft.rollouts.policy import Draw, Sampling
    from rlft.rollouts.transformers_policy import TransformersPolicy

    prompts = [[7 + (row + place) % 100 for place in range(LENGTH)] for row in range(ROWS)]
    draws = [Draw(prompt, seed, 8) for seed, prompt in enumerate(prompts)]
    TransformersPolicy(model, {tokenizer.eos_token_id}, tokenizer.pad_token_id, BATCH).generate(draws, Sampling())
    score_answers(model, prompts, [[[9, 10, 11]]] * ROWS, pad_id=tokenizer.pad_token_id, batch_tokens=BATCH * LENGTH)


def fit(model: Any, tokenizer: Any, folder: Path) -> None:
    """A few steps of weighted fine-tuning."""
    from datasets import Dataset
    from trl import SFTConfig

    from rlft.em.weighted_sft import WeightedSFTTrainer

    ids = [7 + place % 100 for place in range(LENGTH)]
    row = {"input_ids": ids, "labels": [-100] * (LENGTH - 8) + ids[-8:], "weights": [0.5] * LENGTH}
    args = SFTConfig(
        output_dir=str(folder / "training"),
        per_device_train_batch_size=BATCH,
        max_steps=3,
        max_length=None,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    WeightedSFTTrainer(model, args, Dataset.from_list([row] * ROWS), processing_class=tokenizer).train()


def resident() -> float:
    """Resident memory of this process now, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def peak() -> float:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def make_base(folder: Path) -> None:
    """The random base and its tokenizer."""
    from rlft.tiny.model import tiny_model
    from rlft.tiny.word_tokenizer import word_tokenizer

    tokenizer = word_tokenizer()
    tiny_model(tokenizer, hidden=512, layers=9, kv_heads=4).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """All arms, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/pair_memory.json")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        options.output.write_text(json.dumps(measure(options.arm, options.phase, options.folder)))
        return
    found: dict[str, dict[str, Any]] = {phase: {} for phase in PHASES}
    with tempfile.TemporaryDirectory() as scratch:
        make_base(Path(scratch) / "base")
        for phase, arm in itertools.product(PHASES, ARMS):
            file = Path(scratch) / f"{arm}.json"
            command = [sys.executable, __file__, "--arm", arm, "--phase", phase]
            subprocess.run(
                [*command, "--folder", scratch, "--output", str(file)], check=True, stdout=subprocess.DEVNULL
            )
            found[phase][arm] = json.loads(file.read_text())
    ratios = {
        f"{phase}: {arm} / one": arms[arm]["above_mib"] / arms["one"]["above_mib"]
        for phase, arms in found.items()
        for arm in ARMS[1:]
    }
    result = {"command": "./launch.sh benchmarks/pair_memory.py", "cores": os.cpu_count(), **found, **ratios}
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
