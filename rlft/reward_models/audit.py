"""What a scorer is worth, on pairs of users that it never saw, before and while a policy is trained with it.

    accuracy        share of pairs with s+ > s-, by kind of the rejected answer
    length          slope of s on the answer's words, their correlation, and the accuracy that length alone would reach
    swap gap        mean of s(R, y+) - s(R', y+), R' another user's profile: 0 for the blind form, by construction
    calibration     is sigmoid(s+ - s-) the share of pairs that are told apart?
    drift           accuracy on fresh pairs of the policy as it is now

An accuracy on `none` pairs says nothing of persons: a blind and an aware scorer reach the same. Read `swap` and the
gap. Pair accuracy also says little of what the policy will write (arXiv 2512.23067). Legend: N rejected answers.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlft.reward_models.folder import HELD_OUT, ScorerError, read_scorer_folder
from rlft.reward_models.measures import Array, calibration, length_slope
from rlft.reward_models.origin import read_origin
from rlft.reward_models.pair_file import KINDS, Pair, read_pairs
from rlft.reward_models.users import other_user, user_of

if TYPE_CHECKING:
    from rlft.reward_models.scorer import Scorer


@dataclass(frozen=True)
class Drift:
    """Accuracy of a scorer on fresh pairs of the current policy."""

    accuracy: dict[str, float]
    """By kind, and `all`."""
    pairs: int
    threshold: float
    deciding: float
    """Over the kinds that decide on the alarm."""

    @property
    def alarm(self) -> bool:
        """Whether the scorer no longer tells the policy's answers apart."""
        return self.deciding < self.threshold

    @property
    def message(self) -> str:
        """One line for a log."""
        shares = ", ".join(f"{kind} {share:.3f}" for kind, share in self.accuracy.items())
        state = "below" if self.alarm else "not below"
        advice = "; stop, or train the scorer again on fresh pairs" if self.alarm else ""
        seen = f"pair accuracy {self.deciding:.3f} on {self.pairs} fresh pairs ({shares})"
        return f"{seen} is {state} {self.threshold:g}{advice}"


def audit_scorer(scorer: "Scorer", pairs: Sequence[Pair], seed: int = 0) -> dict[str, Any]:
    """Audit a scorer.

    Args:
        scorer: the scorer.
        pairs: of users that it was not trained on.
        seed: of the choice of other users.

    Returns:
        JSON-able: `form`, `task`, `pairs`, `users`, `negatives` (by kind), `accuracy`, `length`, `swap_gap` and
        `calibration`.

    Raises:
        ScorerError: if there are no pairs, or too long ones.
        ValueError: if all pairs are one user's, since no profile could be swapped.
    """
    chosen_N, rejected_N, kinds = _scored(scorer, pairs)
    texts = [(pair.chosen, answer) for pair in pairs for answer in pair.rejected]
    words_N2 = np.array([[len(chosen.split()), len(answer.split())] for chosen, answer in texts], dtype=np.float64)
    return {
        "form": scorer.spec.form,
        "task": scorer.spec.task,
        "pairs": len(pairs),
        "users": len({user_of(asdict(pair)) for pair in pairs}),
        "negatives": {kind: kinds.count(kind) for kind in KINDS if kind in kinds},
        "accuracy": _accuracy(chosen_N, rejected_N, kinds),
        "length": length_slope(chosen_N, rejected_N, words_N2),
        "swap_gap": swap_gap(scorer, pairs, seed),
        "calibration": calibration(chosen_N - rejected_N),
    }


def pair_accuracy(scorer: "Scorer", pairs: Sequence[Pair]) -> dict[str, float]:
    """Share of rejected answers with a lower score than the chosen one, by kind, and `all` of them. A tie is a miss.

    Raises:
        ScorerError: if there are no pairs, or too long ones.
    """
    return _accuracy(*_scored(scorer, pairs))


def swap_gap(scorer: "Scorer", pairs: Sequence[Pair], seed: int = 0) -> dict[str, float]:
    """How much the score of a chosen answer depends on whose profile stands beside it.

    Args:
        scorer: the scorer.
        pairs: of two users or more.
        seed: of the choice of other users.

    Returns:
        `mean` of s(own) - s(other), exactly 0 for the blind form; `positive`, the share of pairs above 0; and
        `standard_error` of the mean, the pairs of a user taken as one draw (clustered, CR1).

    Raises:
        ValueError: if all pairs are one user's.
    """
    rows, draw = [asdict(pair) for pair in pairs], random.Random(seed)
    others = [pairs[other_user(rows, place, draw)].profile for place in range(len(rows))]
    queries, chosen = [pair.query for pair in pairs], [pair.chosen for pair in pairs]
    scores = scorer.score(queries * 2, [pair.profile for pair in pairs] + others, chosen * 2).double().numpy()
    gaps_N = scores[: len(pairs)] - scores[len(pairs) :]
    error = clustered_error(gaps_N, [user_of(row) for row in rows])
    return {"mean": float(gaps_N.mean()), "positive": float((gaps_N > 0).mean()), "standard_error": error}


def clustered_error(values_N: Array, users: Sequence[str]) -> float:
    """Standard error of the mean where the values of one user belong together."""
    _, user_N = np.unique(users, return_inverse=True)
    sums_U = np.bincount(user_N, weights=values_N - values_N.mean())
    count = len(sums_U)
    return float(np.sqrt(count / (count - 1) * (sums_U**2).sum()) / len(values_N)) if count > 1 else 0.0


def check_drift(scorer: "Scorer", fresh: Sequence[Pair], threshold: float = 0.6, kinds: Sequence[str] = KINDS) -> Drift:
    """Score fresh pairs of the current policy, for a callback to log and to act on.

    Args:
        scorer: that rewards the policy.
        fresh: pairs that `build_pairs` made with the policy as it is now. Its counts say why there are none, if so.
        threshold: accuracy below which the alarm goes off. Chance is 0.5; swap pairs are bounded by how often the
            policy follows the profile.
        kinds: of rejected answers that decide on the alarm: those that the scorer was trained to tell. Without any
            answer of these, all decide.

    Raises:
        ScorerError: if there are no pairs, or too long ones.
        ValueError: if `threshold` is not in [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} is a share of pairs, from 0 to 1.")
    chosen_N, rejected_N, found = _scored(scorer, fresh)
    deciding_N = np.isin(found, list(kinds))
    right_N = (chosen_N > rejected_N)[deciding_N if deciding_N.any() else slice(None)]
    return Drift(_accuracy(chosen_N, rejected_N, found), len(fresh), threshold, float(right_N.mean()))


def audit_command(arguments: Any) -> dict[str, Any]:
    """What `rlft rewards audit FOLDER` runs.

    Args:
        arguments: with `folder`, `pairs` (a file; None takes the pairs that training set aside), `task` (None takes
            any), `seed`, and `device` (None takes the GPU if there is one).

    Returns:
        The audit; under `trained` what `scorer.json` says of the training, under `trained_on` how many of the pairs it
        was trained on, as far as `made.json` tells.

    Raises:
        ScorerError: if the folder or the device cannot be used, or no pairs are set aside and none are given.
        rlft.data.prompts.DataError: if the file of pairs is malformed.
    """
    found = read_scorer_folder(arguments.folder, arguments.task)
    path = Path(arguments.pairs) if arguments.pairs else found.folder / HELD_OUT
    if not arguments.pairs and not path.is_file():
        raise ScorerError(f"{found.folder} has no {HELD_OUT}; give pairs of held-out users with --pairs FILE.")
    pairs = read_pairs(path)
    _check_device(arguments.device)
    from rlft.reward_models.scorer import Scorer

    scorer = Scorer.load(found.folder, task=arguments.task, device=arguments.device)
    origin = read_origin(found.folder)
    known = {pair.id for pair in pairs if origin is not None and (pair.id, pair.user_id) in origin.rows}
    return audit_scorer(scorer, pairs, arguments.seed) | {"trained": found.trained, "trained_on": len(known)}


def audit_text(audit: dict[str, Any]) -> str:
    """An audit as lines for people."""
    length, gap, table = audit["length"], audit["swap_gap"], audit["calibration"]
    kinds = {"all": sum(audit["negatives"].values()), **audit["negatives"]}
    lines = [
        f"{audit['form']} scorer of {audit['task']}, {audit['pairs']} pairs of {audit['users']} users",
        *_trained(audit),
    ]
    lines += [f"accuracy {kind:<8}{audit['accuracy'][kind]:8.3f}   of {count}" for kind, count in kinds.items()]
    lines[-len(kinds)] += " rejected answers, chance 0.500"
    lines += [
        f"swap gap         {gap['mean']:8.3f}   standard error {gap['standard_error']:.3f}, positive "
        f"{gap['positive']:.3f}",
        *_no_gap(audit),
        f"length slope     {length['slope']:8.4f}   per word, correlation {length['correlation']:.3f}, within pairs "
        f"{length['difference_correlation']:.3f}; length alone tells {length['rule_accuracy']:.3f} apart",
        f"calibration      {table['ece']:8.3f}   expected error, loss {table['nll']:.3f} (chance {np.log(2):.3f})",
    ]
    lines += [
        f"  confidence {one['confidence']:.3f}   accuracy {one['accuracy']:.3f}   of {one['count']}"
        for one in table["bins"]
    ]
    return "\n".join(lines)


def _trained(audit: dict[str, Any]) -> list[str]:
    """What it was trained with, where its folder says so."""
    trained = audit.get("trained", {})
    lines = []
    if {"loss", "pairs", "negatives"} <= trained.keys():
        kinds = ", ".join(f"{trained['negatives'][kind]} {kind}" for kind in KINDS if kind in trained["negatives"])
        lines = [f"trained with {trained['loss']} on {trained['pairs']} pairs; rejected answers: {kinds}"]
    if audit.get("trained_on"):
        lines.append(f"it was trained on {audit['trained_on']} of these pairs: read nothing into the figures")
    return lines


def _no_gap(audit: dict[str, Any]) -> list[str]:
    """What a swap gap means that is not clearly above 0."""
    gap = audit["swap_gap"]
    if audit["form"] == "blind":
        return ["  0 by construction: a blind scorer sees no profile"]
    if gap["mean"] > 2 * gap["standard_error"]:
        return []
    return ["  not above 0 by two standard errors: these pairs do not show that the scorer reads the profile"]


def _check_device(device: str | None) -> None:
    """Refuse a device that this machine or this build of torch does not have."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises each, by device and build
        reason = str(error).partition("\n")[0]
        raise ScorerError(f"--device {device} cannot be used here ({reason}); cpu always can.") from error


def _scored(scorer: "Scorer", pairs: Sequence[Pair]) -> tuple[Array, Array, list[str]]:
    """s+ and s- of every rejected answer, and its kind."""
    if not pairs:
        raise ScorerError("there are no pairs to score; the counts of build_pairs say why rows were dropped.")
    texts = [(pair, answer) for pair in pairs for answer in pair.rejected]
    queries, profiles = [pair.query for pair, _ in texts], [pair.profile for pair, _ in texts]
    answers = [pair.chosen for pair, _ in texts] + [answer for _, answer in texts]
    scores = scorer.score(queries * 2, profiles * 2, answers).double().numpy()
    return scores[: len(texts)], scores[len(texts) :], [kind for pair in pairs for kind in pair.kinds]


def _accuracy(chosen_N: Array, rejected_N: Array, kinds: Sequence[str]) -> dict[str, float]:
    right_N, of_kind = chosen_N > rejected_N, np.array(kinds)
    shares = {kind: float(right_N[of_kind == kind].mean()) for kind in KINDS if kind in kinds}
    return {"all": float(right_N.mean()), **shares}
