"""What does attention mass cost? Time and memory of the streaming path on a model shaped like Qwen2.5-0.5B.

    ./launch.sh benchmarks/attention_mass.py      writes benchmarks/attention_mass.json

Random weights in fp32, queries and keys scaled so that maps are not flat; one text, one thread. Arms:
    forward   the body with the ordinary kernel (sdpa) alone: the denominator of the time ratio
    stream    attention_mass(method="stream"), which runs the same body
    logits    the forward that a user calls, logits of all tokens included
    eager     attention_mass(method="eager"), which holds the map of one layer at a time
    stored    eager attention with output_attentions=True, as the released code calls it; maps of all layers are held
The first three take turns in one process (forward stream stream forward logits), `eager` and `stored` have one each.
Time is the processor's, so that neighbours on the machine count little; memory is the peak resident set during a call
above what was resident before it.
"""

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from learning import ROOT

CHILDREN = {"turns": ["forward", "stream", "stream", "forward", "logits"], "eager": ["eager"], "stored": ["stored"]}
SHAPE = {"hidden_size": 896, "num_hidden_layers": 24, "intermediate_size": 4864, "num_attention_heads": 14}
SHARPER = 3.0


def measure(arms: list[str], tokens: int, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Arms in turn, in this process; masses are left in the folder."""
    import torch

    torch.set_num_threads(1)
    model = model_of(tokens)
    ids_BT = torch.randint(0, 150_000, (1, tokens), generator=torch.Generator().manual_seed(1))
    calls = calls_of(model)
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for arm in dict.fromkeys(arms):
        calls[arm](ids_BT[:, :64])
    for arm in arms:
        ctypes.CDLL(None).malloc_trim(0)  # what an earlier arm freed is not there for this one
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        held, start, processor = status_mib("VmRSS"), time.perf_counter(), time.process_time()
        mass_BT = calls[arm](ids_BT)
        seconds = {"processor_s": time.process_time() - processor, "wall_s": time.perf_counter() - start}
        found[arm].append(seconds | {"peak_above_mib": status_mib("VmHWM") - held})
        if mass_BT is not None:
            torch.save(mass_BT, folder / f"{arm}.pt")
        del mass_BT
    return found


def model_of(tokens: int) -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        **SHAPE,
        vocab_size=151_936,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=tokens,
        attn_implementation="sdpa",
    )
    model = Qwen2ForCausalLM(config).eval()
    for layer in model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.weight.data.mul_(SHARPER)
    return model


def calls_of(model: Any) -> dict[str, Any]:
    """What each arm runs on ids (B, T); arms with a mass return it."""
    import torch

    from rlft.replay.attention import attention_mass

    @torch.no_grad()
    def forward(ids_BT: Any) -> None:
        model.model(input_ids=ids_BT, use_cache=False)

    @torch.no_grad()
    def logits(ids_BT: Any) -> None:
        model(input_ids=ids_BT, use_cache=False)

    @torch.no_grad()
    def stored(ids_BT: Any) -> Any:
        model.set_attn_implementation("eager")
        maps = model.model(input_ids=ids_BT, use_cache=False, output_attentions=True).attentions
        return (sum(layer_BHTT.sum(2).mean(1).double() for layer_BHTT in maps) / len(maps)).float()

    return {
        "forward": forward,
        "logits": logits,
        "stored": stored,
        "stream": lambda ids_BT: attention_mass(model, ids_BT),
        "eager": lambda ids_BT: attention_mass(model, ids_BT, method="eager"),
    }


def status_mib(name: str) -> float:
    """A size that Linux reports of this process, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**10


def compared(found: dict[str, list[dict[str, float]]], folder: Path) -> dict[str, Any]:
    """Ratios of the arms, and how far their masses are apart."""
    import torch

    def mean(arm: str, name: str) -> float:
        return sum(run[name] for run in found[arm]) / len(found[arm])

    def above(arm: str) -> float:
        return max(run["peak_above_mib"] for run in found[arm])

    mass = {arm: torch.load(folder / f"{arm}.pt") for arm in ("stream", "eager", "stored")}
    apart = {arm: (mass["stream"] - mass[arm]).abs() for arm in ("eager", "stored")}
    return {
        "time: stream / forward": mean("stream", "processor_s") / mean("forward", "processor_s"),
        "time: stored / forward": mean("stored", "processor_s") / mean("forward", "processor_s"),
        "peak memory: stream / stored": above("stream") / above("stored"),
        "peak memory beyond the forward's: stream, MiB": above("stream") - above("forward"),
        "peak memory beyond the forward's: eager, MiB": above("eager") - above("forward"),
        "peak memory beyond the forward's: stored, MiB": above("stored") - above("forward"),
        "largest mass of a token": mass["eager"].max().item(),
        "largest difference of stream to": {arm: gap_BT.max().item() for arm, gap_BT in apart.items()},
        "largest difference of stream to, over max(1, mass)": {
            arm: (gap_BT / mass[arm].clamp_min(1)).max().item() for arm, gap_BT in apart.items()
        },
        "eager and stored apart": (mass["eager"] - mass["stored"]).abs().max().item(),
        "sum of mass, stream": mass["stream"].double().sum().item(),
    }


def main() -> None:
    """All arms; writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/attention_mass.json")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        options.output.write_text(json.dumps(measure(CHILDREN[options.child], options.tokens, options.folder)))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for child in CHILDREN:
            file = Path(scratch) / f"{child}.json"
            command = [sys.executable, __file__, "--child", child, "--tokens", str(options.tokens)]
            subprocess.run([*command, "--folder", scratch, "--output", str(file)], check=True)
            found |= json.loads(file.read_text())
        ratios = compared(found, Path(scratch))
    import torch
    import transformers

    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    result = {
        "command": "./launch.sh benchmarks/attention_mass.py",
        "tokens": options.tokens,
        "threads": 1,
        "cores": os.cpu_count(),
        **versions,
        **ratios,
        "runs": found,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
