"""What SHEAR's span distances cost: exact and certified solvers against the usual ones, in process CPU seconds.

    ./launch.sh benchmarks/transport.py             one thread, writes benchmarks/transport.json, about 10 minutes

A group has 8 rollouts, half of them correct; for every span of every rollout the nearest span of the other side is
wanted. `matrix` is the time of the token distances, which every route needs; the other times are without it. Routes
that solve every pair are timed on `timed_pairs` random pairs and extrapolated to all. States are synthetic: tokens of a
Zipf vocabulary, a slow context that rollouts of a group share up to a point of divergence, a drift after it, noise.
Errors are relative, against POT's network simplex over all opposing spans of a few spans; gaps are those certified.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ot
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance_nd
from transformers import Qwen2Config, Qwen2Model

from rlft.credit.spans import spans
from rlft.credit.transport import distances, nearest_spans
from rlft.credit.transport.layout import Laid, strips
from rlft.credit.transport.nearest import MEMORY
from rlft.credit.transport.sinkhorn import SCALES, plan_cost, scaled

ROOT = Path(__file__).resolve().parents[1]
Group = tuple[list[torch.Tensor], list[torch.Tensor]]
EXACT = {"numba": {"solver": "numba"}, "scipy": {"solver": "scipy"}}
CERTIFIED = {"numba_1_percent": {"solver": "numba", "tolerance": 0.01}}
TORCH = {"torch_1_percent": {"solver": "torch", "tolerance": 0.01}}


def synthetic(length: int, width: int, rollouts: int = 8, seed: int = 0) -> Group:
    """States of one group: its correct and its wrong rollouts."""
    generator = np.random.default_rng(seed)
    tokens_VH = generator.standard_normal((2000, width), dtype=np.float32)
    chance_V = 1 / np.arange(1, 2001)
    chance_V /= chance_V.sum()
    shared_T = generator.choice(2000, length, p=chance_V)
    drive_TH = generator.standard_normal((length, width), dtype=np.float32)
    hidden = []
    for i in range(rollouts):
        diverges = int(generator.integers(length // 8, length // 2))
        ids_T = np.where(np.arange(length) < diverges, shared_T, generator.choice(2000, length, p=chance_V))
        late_TH = generator.standard_normal((length, width), dtype=np.float32)
        context_TH = np.where(np.arange(length)[:, None] < diverges, drive_TH, late_TH)
        for t in range(1, length):
            context_TH[t] = 0.98 * context_TH[t - 1] + 0.2 * context_TH[t]
        context_TH[diverges:] += (0.25 + 0.25 * (i % 2)) * generator.standard_normal(width, dtype=np.float32)
        noise_TH = generator.standard_normal((length, width), dtype=np.float32)
        hidden.append(torch.from_numpy(tokens_VH[ids_T] + 0.6 * context_TH + 0.15 * noise_TH))
    return hidden[::2], hidden[1::2]


def qwen(length: int, width: int, rollouts: int = 8) -> Group:
    """States of a random Qwen2 on token sequences that begin alike."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=2000,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    generator = np.random.default_rng(0)
    chance_V = 1 / np.arange(1, 2001)
    ids_GT = generator.choice(2000, (rollouts, length), p=chance_V / chance_V.sum())
    ids_GT[:, : length // 4] = ids_GT[0, : length // 4]
    with torch.no_grad():
        hidden = list(Qwen2Model(config).eval()(torch.from_numpy(ids_GT)).last_hidden_state)
    return hidden[::2], hidden[1::2]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and its result."""
    started = time.process_time()
    result = call()
    return time.process_time() - started, result


def matrix_seconds(group: Group) -> float:
    """CPU seconds of all token distances, in the strips in which a search makes them."""
    lengths = [[len(h) for h in side] for side in group]
    return sum(
        timed(lambda a=a, b=b: distances(torch.cat(group[0][a]), torch.cat(group[1][b])))[0]
        for a, b in strips(*lengths, MEMORY)
    )


def checked(group: Group, found: Any, window: int, stride: int, count: int) -> float:
    """Largest relative error of a few spans' minima against the network simplex over all opposing spans."""
    one, other = ([h[a:b].double() for h in side for a, b in spans(len(h), window, stride)] for side in group)
    errors = []
    for side, (mine, opposing) in zip(found, ((one, other), (other, one)), strict=True):
        for k in np.linspace(0, len(mine) - 1, count).astype(int):
            costs = [torch.cdist(mine[k], points).numpy() for points in opposing]
            least = min(ot.emd2(ot.unif(len(cost)), ot.unif(cost.shape[1]), cost) for cost in costs)
            errors.append(abs(side.minima_K[k] - least) / max(least, 1e-9) if least > 1e-6 else side.minima_K[k])
    return float(max(errors))


def ours(group: Group, window: int, stride: int, routes: dict[str, dict], matrix: float, check: int) -> dict[str, Any]:
    """Time, certified gap and error of our solvers."""
    laid = [[spans(len(h), window, stride) for h in side] for side in group]
    rows = {}
    for name, options in routes.items():
        seconds, found = timed(lambda options=options: nearest_spans(*group, *laid, **options))
        gaps = [1 - side.lower_K / np.maximum(side.minima_K, 1e-9) for side in found]
        positive = [gap[side.minima_K > 1e-6] for gap, side in zip(gaps, found, strict=True)]
        rows[name] = {"seconds": seconds - matrix, "largest_gap": float(np.concatenate(positive).max())}
        if check:
            rows[name]["largest_error"] = checked(group, found, window, stride, check)
    return rows


def every_pair(group: Group, window: int, stride: int, dear: bool) -> dict[str, Any]:
    """Routes that solve every pair, on random pairs of whole spans, extrapolated."""
    laid = [Laid.of([spans(len(h), window, stride) for h in side]) for side in group]
    pairs = len(laid[0].start_K) * len(laid[1].start_K)
    generator = np.random.default_rng(0)
    states = [torch.cat(side) for side in group]

    def pick(count: int) -> list[list[torch.Tensor]]:
        chosen = []
        while len(chosen) < count:
            numbers = [int(generator.integers(len(one.start_K))) for one in laid]
            points = [x[one.start_K[k] : one.end_K[k]] for x, one, k in zip(states, laid, numbers, strict=True)]
            if len(points[0]) == len(points[1]):
                chosen.append(points)
        return chosen

    def sinkhorn(cost_NM: np.ndarray) -> tuple[float, float]:
        block, real = torch.from_numpy(cost_NM)[None], torch.ones(1, len(cost_NM), dtype=torch.bool)
        plan, _ = scaled(block, real, real, [0.05 * block.mean((1, 2))], 100)
        return float(plan_cost(plan, block, real, real))

    routes: dict[str, tuple[int, Callable]] = {
        "scipy_linear_sum_assignment": (400, lambda c: float(c[linear_sum_assignment(c)].mean())),
        "pot_emd2": (100, lambda c: ot.emd2(ot.unif(len(c)), ot.unif(len(c)), c.astype(np.float64))),
        "sinkhorn_0.05_100_iterations": (50, sinkhorn),
    }
    rows: dict[str, Any] = {}
    for name, (count, solve) in routes.items():
        costs = [torch.cdist(x, y).numpy() for x, y in pick(count)]
        seconds, values = timed(lambda costs=costs, solve=solve: [solve(cost) for cost in costs])
        exact = [float(cost[linear_sum_assignment(cost)].mean()) for cost in costs]
        errors = np.abs(np.array(values) / np.maximum(exact, 1e-9) - 1)[np.array(exact) > 1e-6]
        rows[name] = {"seconds": seconds / count * pairs, "timed_pairs": count, "largest_error": float(errors.max())}
    if dear:
        points = [[x.numpy() for x in pair] for pair in pick(2)]
        seconds, _ = timed(lambda: [wasserstein_distance_nd(x, y) for x, y in points])
        rows["scipy_wasserstein_distance_nd"] = {"seconds": seconds / 2 * pairs, "timed_pairs": 2}
    return rows | {"pairs": pairs}


def case(name: str, group: Group, routes: dict[str, dict], check: int = 2, dear: bool = False) -> dict[str, Any]:
    """One row of the table at the paper's window."""
    matrix = matrix_seconds(group)
    row: dict[str, Any] = {"states": name, "tokens": len(group[0][0]), "rollouts": sum(map(len, group))}
    row |= {"hidden": group[0][0].shape[1], "matrix": matrix}
    row["ours"] = ours(group, 100, 25, routes, matrix, check)
    row["every_pair"] = every_pair(group, 100, 25, dear)
    loop = row["every_pair"]["scipy_linear_sum_assignment"]["seconds"]
    for route in row["ours"].values():
        route["times_faster_than_loop"] = loop / route["seconds"]
        route["times_faster_with_matrix"] = (loop + matrix) / (route["seconds"] + matrix)
    print(json.dumps(row), flush=True)
    return row


def tiny(groups: int = 16, turns: int = 15) -> dict[str, Any]:
    """Spans of 8 tokens in rollouts of 32, where calls cost more than arithmetic: median CPU seconds of some turns."""
    found = [synthetic(32, 64, seed=seed) for seed in range(groups)]
    laid = [[spans(32, 8, 2)] * 4] * 2
    starts = Laid.of(laid[0]).start_K

    def loop() -> None:
        for one, other in found:
            cost_TU = distances(torch.cat(one), torch.cat(other)).numpy()
            for a in starts:
                for c in starts:
                    block = cost_TU[a : a + 8, c : c + 8]
                    block[linear_sum_assignment(block)].mean()

    def ours(solver: str) -> None:
        for group in found:
            nearest_spans(*group, *laid, solver=solver)

    calls = {"scipy_linear_sum_assignment": loop, "numba": partial(ours, "numba"), "scipy": partial(ours, "scipy")}
    taken = [
        {"matrix": sum(map(matrix_seconds, found)), **{name: timed(call)[0] for name, call in calls.items()}}
        for _ in range(turns)
    ]
    median = {name: float(np.median([turn[name] for turn in taken])) for name in taken[0]}
    row: dict[str, Any] = {"groups": groups, "tokens": 32, "window": 8, "stride": 2, "turns": turns}
    row["matrix"] = median["matrix"]
    row["scipy_linear_sum_assignment"] = alone = median["scipy_linear_sum_assignment"] - median["matrix"]
    for name in EXACT:
        seconds = median[name] - median["matrix"]
        row[name] = {"seconds": seconds, "times_faster_than_loop": alone / seconds}
    return row


def memory(length: int, rollouts: int) -> dict[str, Any]:
    """Peak memory of a large group beyond its states and libraries, in a process of its own."""
    group = synthetic(length, 64, rollouts)
    laid = [[spans(length, 100, 25)] * len(side) for side in group]
    nearest_spans(
        *([h[:200] for h in side] for side in group), *([[(0, 200)]] * len(side) for side in group), solver="numba"
    )
    before = peak_kib()
    seconds, _ = timed(lambda: nearest_spans(*group, *laid, solver="numba"))
    row = {"tokens": length, "rollouts": rollouts, "hidden": 64, "budget_gib": MEMORY / 2**30, "seconds": seconds}
    return row | {"peak_gib": (peak_kib() - before) / 2**20}


def peak_kib() -> int:
    """Most memory that this process has held, of Linux alone: `ru_maxrss` begins with what the parent held."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def first_call() -> float:
    """Seconds until the compiled solver is there: loaded from numba's cache, or compiled into it."""
    warm = [[(0, 8), (4, 10)]] * 4
    return timed(lambda: nearest_spans(*synthetic(10, 8), warm, warm, solver="numba"))[0]


def alone(*flags: str, **environment: str) -> Any:
    """What this script prints with these flags in a process of its own."""
    command = [sys.executable, __file__, *flags]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    return json.loads(run.stdout)


def main() -> None:
    """Run every part and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/transport.json")
    parser.add_argument("--memory", type=int, nargs=2, metavar=("TOKENS", "ROLLOUTS"), help="only print this peak")
    parser.add_argument("--first-call", action="store_true", help="only print the seconds of the first numba call")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory or arguments.first_call:
        print(json.dumps(memory(*arguments.memory) if arguments.memory else first_call()))
        return
    with tempfile.TemporaryDirectory() as cache:
        compiled, loaded = (alone("--first-call", NUMBA_CACHE_DIR=cache) for _ in range(2))
    first_call()
    both = EXACT | CERTIFIED
    result: dict[str, Any] = {
        "command": "./launch.sh benchmarks/transport.py",
        "window": 100,
        "stride": 25,
        "scales_of_certified_sinkhorn": SCALES,
        "first_numba_call": {"compiled": compiled, "loaded_from_cache": loaded},
        "tiny": tiny(),
        "cases": [
            case("synthetic", synthetic(256, 896), both | TORCH, dear=True),
            case("synthetic", synthetic(256, 3584), both | TORCH, dear=True),
            case("synthetic", synthetic(1024, 896), both | TORCH, dear=True),
            case("synthetic", synthetic(1024, 3584), both),
            case("synthetic", synthetic(2048, 896), both),
            case("synthetic", synthetic(2048, 3584), {"numba": EXACT["numba"]}),
            case("synthetic", synthetic(4096, 896), {"numba": EXACT["numba"]}, check=1),
            case("synthetic", synthetic(4096, 3584), {"numba": EXACT["numba"]}, check=0),
            case("random Qwen2", qwen(1024, 256), both),
        ],
        "growth_with_rollouts": [
            case("synthetic", synthetic(512, 256, rollouts), EXACT, check=0) for rollouts in (4, 8, 16, 32)
        ],
        "memory": [
            alone("--memory", str(length), str(rollouts)) for length, rollouts in ((1024, 8), (3072, 8), (8192, 16))
        ],
    }
    result["cpu_minutes"] = time.process_time() / 60
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
