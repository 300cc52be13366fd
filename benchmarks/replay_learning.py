"""Does replay keep the old? STOC, its seeds and its rivals on embedded biographies, paired by seed, each pre-trained.

    ./launch.sh benchmarks/replay_learning.py                 5 seeds x 16 arms, writes benchmarks/replay_learning.json
    ./launch.sh benchmarks/replay_learning.py --seeds 1       a quick look

Every arm is the recipe that users run in its tiny setting (alpha 0.5, 120 steps), but for
    none                   new text alone, as many new tokens in a step
    real                   replay is one biography of each old person, out of those that pre-training read
    released, fair, sinkless, prefix, random, bos     replay that the model writes, by what chooses its seeds
    recommended            bos with replay three times as broad
    released-broad         released, three times as broad
    released-dropped       the same, the biography that a seed began dropped
    random-dropped         that with random seeds
    released-stopped       released, a replay item ends with the biography that its seed began, as on KnowEdit
    stopped-filtered       the same, items that name a new person dropped
    ewc, l2                new text alone, the weights held back; seed 0 also at the other strengths in `STRENGTHS`

Each seed has a pre-training of its own, biographies of its own wording, and other draws of replay; the people and their
facts are the same. Recall is that of a fact's first token in held-out sentences, of 1,600 old and 320 new facts.
Seconds are those of an arm in the recipe's process, its last look at recall included. What is finished stays in
`--folder`, and a benchmark that was killed goes on from there.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from learning import ROOT, interval, timed
from search_learning import summarize, warm_up

SEEDED = ("released", "fair", "sinkless", "prefix", "random", "bos")
RIVALS = ("recommended", "ewc", "l2")
STRENGTHS = [("10", "0.01"), ("30", "0.1"), ("100", "1")]
"""Of EWC and of L2, tried in pairs."""
ANCHORED = {
    f"strengths-{ewc}": ["--arms", "ewc", "l2", "--ewc_strength", ewc, "--l2_strength", l2] for ewc, l2 in STRENGTHS
}
BROAD = ["--arms", "stoc", "--replay_breadth", "3"]
DROPPED = [*BROAD, "--keep_seeded_sample", "false"]
STOPPED = ["--arms", "stoc", "--scorer", "released", "--stop_at_end", "true"]
CALLS = {
    "all": ["--ewc_strength", "30", "--l2_strength", "0.01", "--arms", "none", "real", *SEEDED, *RIVALS],
    "broad": [*BROAD, "--scorer", "released"],
    "dropped": [*DROPPED, "--scorer", "released"],
    "random-dropped": [*DROPPED, "--scorer", "random"],
    "stopped": STOPPED,
    "filtered": [*STOPPED, "--drop_new_subjects", "true"],
}
ALONE = {
    "broad": "released-broad",
    "dropped": "released-dropped",
    "random-dropped": "random-dropped",
    "stopped": "released-stopped",
    "filtered": "stopped-filtered",
}
"""What the one arm of a call is called."""
ARMS = ["none", "real", *SEEDED, "recommended", *ALONE.values(), "ewc", "l2"]
DRAWN = [arm for arm in ARMS if arm not in ("fair", "sinkless", "random-dropped")]
"""Arms of the picture, where those that are left out would lie upon `released` and `released-dropped`."""
ENDS = ("low", "high")
MEASURES = ("old", "new", "old_exact", "new_exact")
FIRST = 9
"""Tokens that three seeds of three take if they are the first ones."""


def recipe(call: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Run the recipe, or go on with a run of it that was killed; what it says of its arms."""
    folder = folder / f"{call}-{seed}"
    if (folder / "comparison.json").exists():
        return json.loads((folder / "comparison.json").read_text())
    resume = ["--resume_from_checkpoint", "true"] if (folder / "identity.json").exists() else []
    command = [sys.executable, str(ROOT / "recipes/stoc.py"), "--seed", str(seed), "--output_dir", str(folder)]
    timed([*command, *(CALLS | ANCHORED)[call], *resume, "--disable_tqdm", "true"])
    return json.loads((folder / "comparison.json").read_text())


def figures(found: dict[str, Any], call: str, seed: int) -> dict[str, Any]:
    """What is compared, of the `arm.json` of one arm."""
    recall = {
        when: {
            which + suffix: found["recall"][which][metric][when]["value"]
            for metric, suffix in (("hfta", ""), ("exact", "_exact"))
            for which in ("old", "new")
        }
        for when in ("before", "after")
    }
    return {"arm": ALONE.get(call, found["arm"]), "seed": seed, **recall}


def of_replay(report: dict[str, Any]) -> dict[str, Any]:
    """What replay was made of: its truth, its people, its items, and where its seeds stand."""
    mix, stated, seeds = report["mix"], report.get("stated"), report.get("seeds")
    if not mix["replay_items"]:
        return {}
    found = {
        "new_of_tokens": mix["new_of_tokens"],
        "items": mix["replay_items"],
        "repeated_items": mix["repeats"],
        "facts": stated["stated"],
        "true_of_old": stated["true_of_old"] / stated["about_old"],
        "about_new": stated["about_new"] / stated["stated"],
        "about_nobody": stated["about_nobody"] / stated["stated"],
        "old_people": stated["old_people"],
    }
    if seeds and len(seeds["starts"]) > 1:
        starts = {int(start): share for start, share in seeds["starts"].items()}
        found |= {"seeds": seeds["seeds"], "distinct_seeds": seeds["distinct"]}
        found["seeds_in_first_tokens"] = sum(share for start, share in starts.items() if start < FIRST - 2)
        found["seeds_at_0_3_6"] = [starts.get(start, 0.0) for start in (0, 3, 6)]
        found["mean_start"] = sum(start * share for start, share in starts.items())
    return found


def of_seed(seed: int, folder: Path) -> dict[str, Any]:
    """Pre-training and all arms of one seed, or what an earlier call found."""
    path = folder / f"seed-{seed}.json"
    if not path.exists():
        warmed = folder / f"warm-up-{seed}.json"
        if not warmed.exists():
            warmed.write_text(json.dumps(warm_up("tiny/biographies", seed)))
        runs = [
            figures(one, call, seed)
            | {"replay": of_replay(one["replay"]), "cpu_seconds": one["cpu_seconds"], "wall_seconds": one["seconds"]}
            for call in CALLS
            for one in recipe(call, seed, folder)
        ]
        path.write_text(json.dumps({"warm_up": json.loads(warmed.read_text()), "runs": runs}))
    return json.loads(path.read_text())


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means by arm, differences to `none` and to `random` paired by seed, and what replay was made of."""
    found = summarize(runs, ARMS, MEASURES)
    to_random = summarize(runs, ["random", *(arm for arm in ARMS if arm != "random")], MEASURES)
    found |= {name: value for name, value in to_random.items() if " minus " in name}
    for arm in ARMS:
        made = [run["replay"] for run in runs if run["arm"] == arm]
        names = [name for name, value in made[0].items() if not isinstance(value, list)]
        found[arm]["replay"] = {name: interval([one[name] for one in made]) for name in names}
        if "seeds_at_0_3_6" in made[0]:
            places = zip(*(one["seeds_at_0_3_6"] for one in made), strict=True)
            found[arm]["replay"]["seeds_at_0_3_6"] = [sum(shares) / len(made) for shares in places]
    return found


def draw(result: dict[str, Any], path: Path) -> None:
    """Old recall against new recall, with intervals over seeds that leave out what all arms of a seed share."""
    from rlft.record.forgetting_plot import draw_forgetting

    marks = {arm: {which: mark(result["runs"], arm, which) for which in ("old", "new")} for arm in DRAWN}
    before = result["summary"]["none"]
    marks["before"] = {
        which: {"value": before[f"before {which}"]["mean"], **{end: before[f"before {which}"][end] for end in ENDS}}
        for which in ("old", "new")
    }
    title = f"Old and new facts after training: mean of {len(result['warm_ups'])} seeds, 95 % interval between arms"
    draw_forgetting(marks, path, title, recall="recall")


def mark(runs: list[dict[str, Any]], arm: str, which: str) -> dict[str, float]:
    """A mean with its interval within seeds (Morey 2008): each seed is shifted to the mean of all of them first."""
    by_arm = {name: [run["after"][which] for run in runs if run["arm"] == name] for name in DRAWN}
    shared = [sum(values) / len(values) for values in zip(*by_arm.values(), strict=True)]
    found = interval([value - common for value, common in zip(by_arm[arm], shared, strict=True)])
    middle = sum(by_arm[arm]) / len(shared)
    wide = (found["high"] - found["mean"]) * (len(DRAWN) / (len(DRAWN) - 1)) ** 0.5
    return {"value": middle, "low": middle - wide, "high": middle + wide}


def main() -> None:
    """Run all seeds, write the figures and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/replay_learning", help="where a killed one goes on")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/replay_learning.json")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs/forgetting.png")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ["RLFT_CACHE"] = str(options.folder / "cache")
    seeds = []
    for seed in range(options.seeds):
        seeds.append(of_seed(seed, options.folder))
        for run in seeds[-1]["runs"]:
            print(json.dumps(run), flush=True)
    anchored = [
        figures(one, call, 0) | {"strength": one["options"]["anchor_strength"]}
        for call in ANCHORED
        for one in recipe(call, 0, options.folder)
    ]
    runs = [run for one in seeds for run in one["runs"]]
    result = {"command": "./launch.sh benchmarks/replay_learning.py", "cores": os.cpu_count(), "calls": CALLS}
    result |= {
        "warm_ups": [one["warm_up"] for one in seeds],
        "summary": summary(runs),
        "strengths": anchored,
        "runs": runs,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, options.picture)
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error}; run that command by hand to see why.")
