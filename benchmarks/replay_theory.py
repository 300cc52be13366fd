"""What moves the point that learning ends at? Replay, L2 and EWC on the one-layer model, beside their closed forms.

    ./launch.sh benchmarks/replay_theory.py       writes benchmarks/replay_theory.json and docs/replay_theory.png

Paper: "Towards Understanding Continual Factual Knowledge Acquisition of Language Models", arXiv 2605.10640, theory.
One layer of linear attention scores object o in a context as sum_s z_s y_os over the tokens s of the context; attention
z is slow and held fixed, the storage y is trained by SGD on the cross-entropy of the object. q is the distribution of
objects in the text, p the model's, y* the storage before the new text, w the weights of a penalty k/2 sum w (y - y*)^2.

The paper's statements
  (1) L2 and EWC change the speed and not the limit, because min_o w_o is about 0 where few objects hold the facts;
  (2) with a share alpha of new text the target is (1 - alpha) times the mean over old objects plus alpha times the mean
      over new ones: the limit moves linearly in 1 - alpha.

What stands here is ours, from the stationary point of the loss, token by token:
  (a) No penalty: the mean of p over the contexts of a token equals the mean of q over them. With replay that is (2),
      exactly, for a token as frequent in old text as in new; if it is f times as frequent there, its own share of
      replay (1-alpha) f / (alpha + (1-alpha) f) stands for 1 - alpha. The probability is linear; the storage moves as
      its logarithm, steeply near 1 - alpha = 0.
  (b) A penalty: p_o - q_o = -(k/z) w_o (y_o - y*_o) for each object. An object with w_o = 0 ends at p = q whatever k
      is. If that is true of all new objects, they get all of q, and what the old ones keep is what the new text leaves
      them, however strongly they are protected: a constant added to all y of a token changes no p, so the others rise
      above them. (1) then holds, and what changes is the speed: the slowest rate is the smallest positive eigenvalue of
      z^2 (diag q - q q^T) + k diag w. What decides is thus the weight on NEW objects, not the smallest weight. L2 has
      1 there and moves the limit for every k > 0.
  (c) EWC's weight on a new object is z^2 p*(1 - p*), about 0 as the old model expects anything but that object. (1)
      holds while k p*(new) is small, to about 0.001 here: hence the huge lambdas met in practice. Beyond it the limit
      moves.
  (d) Where old and new contexts differ by a token, p = q can hold in both at once. Without a penalty the limits form a
      flat set; any replay, and any k > 0 with w = 0 on the new token, ends at full retention, EWC more slowly (at
      1 - alpha = 0.1 and k = 1/9 by a factor of 10 or so). There (1) is false, and (2) says nothing of recall.
So (1) is confirmed for EWC at moderate k on contexts that old and new facts share, and is not true of L2, of EWC at
large k, or of facts that a token tells apart.
"""

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
V, FACTS, Z, RATE, TOKENS = 10, 4, 0.5, 0.5, 16
"""Objects, of which 0 to 3 are old facts of a token and 4 to 7 new ones; attention to the token; learning rate;
independent tokens, one sentence of each in every step."""
OTHERS_NEW = 0.1
"""Share of sentences of the new text with just any object, which keeps the optimum finite."""
L2, EWC, PROTECTED = "L2", "EWC", "old objects protected"
ALPHAS = (1.0, 0.95, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2)
OLD, NEW = (np.arange(V) // FACTS == side for side in (0, 1))


@dataclass(frozen=True)
class Arm:
    """A way to learn the new text; of replay, the model's own text at temperature 1 counts as old text: p* is q."""

    penalty: str = ""
    k: float = 0.0
    alpha: float = 1.0
    times: float = 1.0
    """How often the token occurs in old text for one time in new text."""
    others: float = 0.002
    """Share of sentences of the old text with just any object."""


ARMS = [
    *(Arm(alpha=alpha, times=times) for times in (1.0, 4.0) for alpha in ALPHAS),
    *(Arm(PROTECTED, k) for k in (0.001, 0.01, 0.1, 0.5)),
    *(Arm(L2, k) for k in (1e-4, 1e-3, 0.01, 0.1, 0.5)),
    *(Arm(EWC, k, others=others) for others in (0.02, 0.002, 0.0002) for k in (0.01, 0.1, 1.0, 5.0, 20.0)),
]


def told(objects_V: np.ndarray, others: float) -> np.ndarray:
    """(V,) distribution of a text that tells some objects alike and a share `others` of just any."""
    return others / V + (1 - others) * objects_V / objects_V.sum()


def replay_share(alpha: float, times: float) -> float:
    """Share of replay among a token's sentences, statement (a)."""
    return (1 - alpha) * times / (alpha + (1 - alpha) * times)


def storage(q_V: np.ndarray) -> np.ndarray:
    """(V,) y whose p is q; of all that differ by a constant, the one with mean 0."""
    return (np.log(q_V) - np.log(q_V).mean()) / Z


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    risen = np.exp(logits - logits.max(-1, keepdims=True))
    return risen / risen.sum(-1, keepdims=True)


def curvature(p_V: np.ndarray) -> np.ndarray:
    """(V, V) second derivative of the cross-entropy in y, which is also y's Fisher information."""
    return Z**2 * (np.diag(p_V) - np.outer(p_V, p_V))


def setting(arm: Arm) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(V,) each: storage before the new text, objects of the text that is learned, k times the weights."""
    old_V, share = told(OLD, arm.others), replay_share(arm.alpha, arm.times)
    weights = {"": np.zeros(V), L2: np.ones(V), EWC: np.diag(curvature(old_V)), PROTECTED: OLD.astype(float)}
    return storage(old_V), (1 - share) * told(NEW, OTHERS_NEW) + share * old_V, arm.k * weights[arm.penalty]


def limit(arm: Arm) -> np.ndarray:
    """(V,) p at the stationary point: q without a penalty (a), else the root of (b) by Newton's method."""
    start_V, q_V, pull_V = setting(arm)
    if not pull_V.any():
        return q_V
    y_V = start_V
    for _ in range(1000):
        p_V = softmax(Z * y_V)
        gradient_V = Z * (p_V - q_V) + pull_V * (y_V - start_V)
        step_V = np.linalg.solve(curvature(p_V) + np.diag(pull_V), gradient_V)
        if np.abs(step_V).max() < 1e-9:
            return p_V
        y_V = y_V - step_V * min(1.0, 1.0 / np.abs(step_V).max())  # short enough for the quadratic to hold
    raise ArithmeticError(f"{arm}: no stationary point was found, the last step was {np.abs(step_V).max():.1e}.")


def first_order(arm: Arm) -> float:
    """How much more of p old objects keep than without the penalty, for small k: (k/z) w (y* - y), statement (b)."""
    start_V, q_V, pull_V = setting(arm)
    end_V = storage(q_V)
    # The constant that is free: the conditions summed over objects ask for sum w (y - y*) = 0.
    end_V = end_V - (pull_V * (end_V - start_V)).sum() / pull_V.sum()
    return float((pull_V * (start_V - end_V))[OLD].sum() / Z)


def slowest_rate(arm: Arm) -> float:
    """Per step, near the limit: the learning rate times the smallest positive eigenvalue of the second derivative."""
    values_V = np.linalg.eigvalsh(curvature(limit(arm)) + np.diag(setting(arm)[2]))
    return float(RATE * values_V[values_V > 1e-12].min())


def trained(arms: list[Arm], steps: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SGD, one sentence of every token in each step, the same random numbers for all arms.

    Returns:
        (steps, A, 2) p on old and on new objects, mean over tokens; (A, TOKENS, 2) the same, mean over the last half of
        the steps; (A,) standard deviation in time of p on old objects over that half, mean over tokens.
    """
    rng = np.random.default_rng(seed)
    start_A1V, q_A1V, pull_A1V = (np.stack(parts)[:, None] for parts in zip(*map(setting, arms), strict=True))
    edges_A1V = q_A1V.cumsum(-1)[..., :-1]
    sides_V2 = np.stack([OLD, NEW], -1).astype(float)
    y_ASV = np.repeat(start_A1V, TOKENS, 1)
    path_TA2 = np.empty((steps, len(arms), 2))
    sums_AS2, squares_AS = np.zeros((len(arms), TOKENS, 2)), np.zeros((len(arms), TOKENS))
    for step in range(steps):
        p_ASV = softmax(Z * y_ASV)
        mass_AS2 = p_ASV @ sides_V2
        path_TA2[step] = mass_AS2.mean(1)
        if step >= steps // 2:
            sums_AS2 += mass_AS2
            squares_AS += mass_AS2[..., 0] ** 2
        said_AS1 = (rng.random(TOKENS)[:, None] > edges_A1V).sum(-1)[..., None]
        y_ASV -= RATE * (Z * p_ASV + pull_A1V * (y_ASV - start_A1V))
        np.put_along_axis(y_ASV, said_AS1, np.take_along_axis(y_ASV, said_AS1, 2) + RATE * Z, 2)
    mean_AS2 = sums_AS2 / (steps - steps // 2)
    variance_AS = squares_AS / (steps - steps // 2) - mean_AS2[..., 0] ** 2
    return path_TA2, mean_AS2, np.sqrt(variance_AS.clip(min=0)).mean(1)


def shown_steps(steps: int) -> list[int]:
    """About 50 of them, closer together at the start."""
    return [int(step) for step in np.unique(np.geomspace(1, steps, 50).astype(int))]


def rows_of(arms: list[Arm], steps: int, seed: int) -> list[dict[str, Any]]:
    """What was measured of each arm beside its closed form, and its course at `shown_steps`."""
    path_TA2, mean_AS2, wobble_A = trained(arms, steps, seed)
    rows = []
    for number, arm in enumerate(arms):
        old, new = (float(limit(arm)[side].sum()) for side in (OLD, NEW))
        old_T, old_S = path_TA2[:, number, 0], mean_AS2[number, :, 0]
        near_T = np.abs(old_T - old) < 0.02
        row = {
            "old_at_limit": old,
            "old_measured": float(old_S.mean()),
            "old_standard_error": float(old_S.std(ddof=1) / np.sqrt(TOKENS)),
            "new_at_limit": new,
            "new_measured": float(mean_AS2[number, :, 1].mean()),
            "old_shift_to_first_order": first_order(arm) if arm.k else None,
            "oscillation_of_old": float(wobble_A[number]),
            "slowest_rate": slowest_rate(arm),
            "steps_until_0.02_from_limit": int(near_T.argmax()) if near_T.any() else None,
            "course_of_old": [round(float(old_T[step - 1]), 4) for step in shown_steps(steps)],
        }
        rows.append(asdict(arm) | row)
    return rows


def curves() -> list[dict[str, Any]]:
    """Closed forms between and beyond the arms that were trained: p on old objects at the limit."""
    series = [
        *(("alpha", Arm(times=times), np.linspace(0.2, 1, 33)) for times in (1.0, 4.0)),
        ("k", Arm(PROTECTED), np.geomspace(1e-4, 1e4, 5)),
        ("k", Arm(L2), np.geomspace(1e-4, 1, 33)),
        *(("k", Arm(EWC, others=others), np.geomspace(1e-3, 1e4, 33)) for others in (0.02, 0.002, 0.0002)),
    ]
    return [
        asdict(arm)
        | {
            "over": over,
            "x": [float(f"{x:.5g}") for x in places],
            "old_at_limit": [round(float(limit(replace(arm, **{over: x}))[OLD].sum()), 5) for x in places],
        }
        for over, arm, places in series
    ]


def own_tokens(k: float, alpha: float, steps: int) -> np.ndarray:
    """(steps,) p of an old fact in its own context, by gradient descent on the expected loss, statement (d).

    Old contexts are a shared token and one of their own, new ones the shared token and a fresh one; one old and one new
    fact. Both tokens of the old context hold half of it, as training from zero leaves them. Penalty: EWC with `k`.
    """
    old_V, new_V = told(np.arange(V) == 0, 0.002), told(np.arange(V) == FACTS, OTHERS_NEW)
    half_V, pull_V = storage(old_V) / 2, k * np.diag(curvature(old_V))
    shared_V, own_V, fresh_V = half_V, half_V, np.zeros(V)
    kept_T = np.empty(steps)
    for step in range(steps):
        p_old_V, p_new_V = softmax(Z * (shared_V + own_V)), softmax(Z * (shared_V + fresh_V))
        kept_T[step] = p_old_V[0]
        of_old_V, of_new_V = Z * (1 - alpha) * (p_old_V - old_V), Z * alpha * (p_new_V - new_V)
        shared_V = shared_V - RATE * (of_old_V + of_new_V + pull_V * (shared_V - half_V))
        own_V = own_V - RATE * (of_old_V + pull_V * (own_V - half_V))
        fresh_V = fresh_V - RATE * of_new_V  # never met in old text: its weight is 0
    return kept_T


def own_tokens_untouched() -> float:
    """Limit of `own_tokens` without penalty or replay: p in proportion to q_old^(3/4) q_new^(1/2).

    The shared and the fresh token get the same gradient, so each takes half of ln q_new - (ln q_old) / 2.
    """
    old_V, new_V = told(np.arange(V) == 0, 0.002), told(np.arange(V) == FACTS, OTHERS_NEW)
    return float(softmax(0.75 * np.log(old_V) + 0.5 * np.log(new_V))[0])


def own_tokens_rows(steps: int) -> dict[str, Any]:
    """Courses of `own_tokens` without anything, with replay, and with EWC."""
    cases = {"neither": (0.0, 1.0), "replay, 1 - alpha = 0.1": (0.0, 0.9)}
    cases |= {f"EWC, k = {label}": (k, 1.0) for label, k in (("0.01", 0.01), ("1/9", 1 / 9), ("10", 10.0))}
    return {
        "retained_before": float(told(np.arange(V) == 0, 0.002)[0]),
        "neither_closed_form": own_tokens_untouched(),
        "steps": shown_steps(steps),
        "courses": {
            label: [round(float(kept_T[step - 1]), 5) for step in shown_steps(steps)]
            for label, case in cases.items()
            for kept_T in [own_tokens(*case, steps)]
        },
    }


def main() -> None:
    """Train all arms, write the figures and the picture."""
    from replay_theory_picture import draw

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/replay_theory.json")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs/replay_theory.png")
    options = parser.parse_args()
    started = time.process_time()
    rows = rows_of(ARMS, options.steps, options.seed)
    result = {
        "command": "./launch.sh benchmarks/replay_theory.py",
        "cores": os.cpu_count(),
        "settings": {"objects": V, "z": Z, "rate": RATE, "tokens": TOKENS, "steps": options.steps, "new": OTHERS_NEW},
        "largest_difference_from_closed_form": max(abs(row["old_measured"] - row["old_at_limit"]) for row in rows),
        "own_tokens": own_tokens_rows(2 * options.steps),
        "course_steps": shown_steps(options.steps),
        "cpu_seconds": round(time.process_time() - started, 1),
        "arms": rows,
        "curves": curves(),
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, options.picture)
    print(
        json.dumps(
            {key: value for key, value in result.items() if not isinstance(value, list) and key != "own_tokens"},
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
