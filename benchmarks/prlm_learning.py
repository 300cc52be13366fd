"""Does it learn a user's style? PrLM with and without a reward model that sees the profile, paired by seed.

    ./launch.sh benchmarks/prlm_learning.py                 3 seeds x 14 arms: prlm_learning.json, prlm_audits.json
    ./launch.sh benchmarks/prlm_learning.py --seeds 1       a quick look

Every arm is the recipe that users run with its tiny setting: pairs by the warm-up policy, a reward model trained on
them, 80 steps of GRPO; arms of a seed start from the same warm-up. But for
    aware              the tiny setting: the reward model sees the profile, negatives without and with another's profile
    none               no reward model
    blind              the paper's form: question and answer alone, negatives without a profile
    blind-swap         the same with the negatives of `aware`
    aware-none-only    `aware` with the paper's negatives alone
    shear              SHEAR credit; as answers have 10 tokens, windows of 4, and correct means all content words and a
                       personalisation reward above one half
    normalize_then_sum each reward has the same spread in a group before weights apply
    infonce            the reward model learns from both negatives at once
    few-pairs          the reward model learns from 300 rows, not 2,000
    long               `aware`, the reward model weighed as much as content (elsewhere half), 160 steps
    long-heavy         the same weighed 30 times as much
    long-blind         `long` with the reward model of `blind`
    long-few-pairs     `long` with that of `few-pairs`
    curve              `aware`, evaluated with all choosers of past items

Figures are of 480 requests of 36 users that are in no training data, answered at temperature 1. `own` is the style
match: opener and ending are the user's. No reward is made of it: content rewards the other words alone. Clean audits
ask each reward model about the gold answers of these requests against the same words in another held-out user's style
(`swap`) and in the plain one (`none`); pair accuracy on the policy's own answers is bounded by how often these are in
the user's style.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean, median
from typing import Any

from learning import ROOT, timed
from search_learning import summarize, warm_up

from rlft.record.jsonl import read_jsonl
from rlft.record.rollouts import read_rollouts
from rlft.reward_models.pair_file import Pair, write_pairs
from rlft.rewards.personal import extract_answer
from rlft.tiny.histories import users
from rlft.tiny.style import THINK_END, style_shares
from rlft.tiny.tasks import StyleTask
from rlft.tiny.words import CONTROLS, PLAIN_STYLE

COMMAND = "./launch.sh benchmarks/prlm_learning.py"
LONG = ["--personalization_weight", "1", "--max_steps", "160"]
BLIND = ["--scorer_form", "blind", "--negatives", "none"]
FEW = ["--pair_rows", "300"]
ARMS = {
    "aware": [],
    "none": ["--personalization_weight", "0", "--drift_steps", "0"],
    "blind": BLIND,
    "blind-swap": ["--scorer_form", "blind"],
    "aware-none-only": ["--negatives", "none"],
    "shear": ["--credit", "shear", "--window", "4", "--stride", "2", "--correct_threshold", "1.25"],
    "normalize_then_sum": ["--multi_objective_aggregation", "normalize_then_sum"],
    "infonce": ["--scorer_loss", "infonce"],
    "few-pairs": FEW,
    "long": LONG,
    "long-heavy": [*LONG, "--personalization_weight", "30"],
    "long-blind": [*LONG, *BLIND],
    "long-few-pairs": [*LONG, *FEW],
    "curve": ["--eval_retrievers", "none", "random", "bm25"],
}
MEASURES = ("own", "generic", "other", "content_f1", "parseable")
RIVALS = ("none", "blind", "blind-swap")
SCORERS = ("aware", "blind", "blind-swap", "aware-none-only", "few-pairs")
AUDITS = ("audit", "clean_audit")
MOMENTS = ("before", "after")
DRIFT = ("pairs", "accuracy", "accuracy_none", "accuracy_swap", "swap_gap", "alarm")
SHARE = "prlm/variance_share/"
WINDOW = 20


def clean_pairs(path: Path) -> None:
    """Gold answers of the held-out requests against the same words in the plain style and in another user's."""
    task, draw, pairs = StyleTask(), random.Random(0), []
    writers = users(task.world(), "test")
    for row in task.rows(480, 22, "test", items=5):
        words = row["answer"].split()
        stranger = draw.choice([user for user in writers if user.name != row["user_id"]])
        wrong = [" ".join([PLAIN_STYLE[0], *words, PLAIN_STYLE[1]]), stranger.write(words)]
        shown = row["profile"][:3]
        pairs.append(
            Pair(row["id"], row["user_id"], row["query"], shown, row["gold"], wrong, ["none", "swap"], row["gold"])
        )
    write_pairs(pairs, path)


def run(arm: str, seed: int, folder: Path, clean: Path) -> dict[str, Any]:
    """One run of the recipe; what its folder says."""
    command = [sys.executable, str(ROOT / "recipes/prlm.py"), "--seed", str(seed), "--output_dir", str(folder)]
    seconds = timed([*command, *ARMS[arm], "--disable_tqdm", "true"])
    settings = json.loads((folder / "evaluation.json").read_text())
    logged = read_jsonl(folder / "record/metrics.jsonl")
    steps = [row for row in logged if "reward" in row]
    shares = [name for name in dict.fromkeys(name for row in steps for name in row) if name.startswith(SHARE)]
    found = {
        "arm": arm,
        "seed": seed,
        **{when: {name: settings[0]["metrics"][name][when]["value"] for name in MEASURES} for when in MOMENTS},
        "by_profiles": [
            {"retriever": one["retriever"], "k": one["k"], **{when: one["metrics"]["own"][when] for when in MOMENTS}}
            for one in settings
        ],
        "variance_share": {
            name.removeprefix(SHARE): median(row[name] for row in steps if name in row) for name in shares
        },
        "step_seconds": fmean(row["step_time"] for row in steps),
        "training": by_window(folder),
        **seconds,
    }
    return found if arm == "none" else found | judged(folder, clean, logged)


def judged(folder: Path, clean: Path, logged: list[dict[str, Any]]) -> dict[str, Any]:
    """What is said of the reward model: the run's own audit, one of clean pairs, and the drift checks."""
    audit = ["rewards", "audit", str(folder / "scorer"), "--pairs", str(clean), "--json"]
    command = [sys.executable, "-m", "rlft", *audit]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    checks = [row for row in logged if "drift/alarm" in row]
    return {
        "audit": json.loads((folder / "audit.json").read_text()),
        "clean_audit": json.loads(said),
        "drift": [{"step": row["step"], **{name: row.get(f"drift/{name}") for name in DRIFT}} for row in checks],
    }


def by_window(folder: Path) -> list[dict[str, float]]:
    """Rewards and true style of the training samples, over WINDOW steps each."""
    windows: dict[int, list[Any]] = {}
    for rollout in read_rollouts(folder / "record"):
        windows.setdefault(rollout.step // WINDOW, []).append(rollout)
    found = []
    for number, rollouts in sorted(windows.items()):
        answers = [extract_answer(one.completion.replace(CONTROLS[2], ""), None, THINK_END) for one in rollouts]
        styles = style_shares(answers, [asked(one.prompt) for one in rollouts])
        scored = {name: [one.rewards[name] for one in rollouts] for name in rollouts[0].rewards}
        rewards = {name: fmean(value for value in values if value is not None) for name, values in scored.items()}
        found.append({"until_step": (number + 1) * WINDOW, **rewards, "own": styles["own"], "other": styles["other"]})
    return found


def asked(prompt: str) -> dict[str, str]:
    """The style of the first past item, and the words to write about."""
    item = prompt.partition("[item] ")[2].partition(" [")[0].split()
    query = prompt.partition("[ask] ")[2].partition(" [")[0].split()
    return {"opener": item[0], "ending": item[-1], "answer": " ".join(query[1::2])}


def in_brief(run: dict[str, Any]) -> dict[str, Any]:
    """The run with the audits' main figures; they stand whole in a file of their own."""
    if "audit" not in run:
        return run
    audits = {
        name: {
            "accuracy": run[name]["accuracy"],
            "swap_gap": run[name]["swap_gap"],
            "length_slope": run[name]["length"]["slope"],
            "calibration_error": run[name]["calibration"]["ece"],
        }
        for name in AUDITS
    }
    return run | audits


def required(runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The figures that the method is held to, a value for each seed."""
    by = {(run["arm"], run["seed"]): run for run in runs}
    seeds = sorted({run["seed"] for run in runs})
    own = {key: run["after"]["own"] for key, run in by.items()}
    found = {f"own, aware minus {arm}": [own["aware", seed] - own[arm, seed] for seed in seeds] for arm in RIVALS}
    for arm in SCORERS:
        audits = [(by[arm, seed]["audit"], by[arm, seed]["clean_audit"]) for seed in seeds]
        found[f"own style before another's, {arm}"] = [clean["accuracy"]["swap"] for _, clean in audits]
        found[f"swap gap, {arm}"] = [audit["swap_gap"]["mean"] for audit, _ in audits]
        found[f"swap gap of clean answers, {arm}"] = [clean["swap_gap"]["mean"] for _, clean in audits]
    return found


def write(runs: list[dict[str, Any]], warm_ups: list[dict[str, Any]], output: Path, audits: Path) -> None:
    """Both files of figures."""
    result: dict[str, Any] = {"command": COMMAND, "cores": os.cpu_count(), "warm_ups": warm_ups}
    result |= {"required": required(runs), "runs": [in_brief(run) for run in runs]}
    result["summary"] = summarize(runs, list(ARMS), MEASURES)
    output.write_text(json.dumps(result, indent=1) + "\n")
    whole = [{name: run[name] for name in ("arm", "seed", *AUDITS)} for run in runs if run["arm"] in SCORERS]
    audits.write_text(json.dumps({"command": COMMAND, "audits": whole}, indent=1) + "\n")
    print(json.dumps({name: result[name] for name in ("required", "summary")}, indent=1))


def main() -> None:
    """Run all arms and seeds, in turns so that drift of the machine falls on all arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/prlm_learning.json")
    parser.add_argument("--audits", type=Path, default=ROOT / "benchmarks/prlm_audits.json")
    options = parser.parse_args()
    runs, warm_ups = [], []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["RLFT_CACHE"] = f"{scratch}/cache"
        clean_pairs(clean := Path(scratch) / "clean.jsonl")
        for seed in range(options.seeds):
            warm_ups.append(warm_up("tiny/style", seed))
            for arm in ARMS:
                runs.append(run(arm, seed, Path(scratch) / f"{arm}-{seed}", clean))
                print(json.dumps(runs[-1]), flush=True)
    write(runs, warm_ups, options.output, options.audits)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error}; run that command by hand to see why.")
