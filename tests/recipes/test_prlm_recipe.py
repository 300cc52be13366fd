"""The recipe of personal answers as a user runs it: the smoke end to end, LaMP's files, several processes."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from rlft.record.jsonl import read_jsonl
from rlft.record.provenance import read_provenance
from rlft.reward_models import read_pairs
from rlft.reward_models.users import user_of
from rlft.tiny.lamp_files import write_lamp_files
from rlft.tiny.tasks import TASKS, StyleTask
from tests import scripts
from tests.recipes.test_prlm_inputs import RECIPE, ROOT, in_process

prlm = functools.partial(scripts.run, RECIPE)
DEV = ["--eval_strategy", "steps", "--eval_steps", "2", "--load_best_model_at_end", "true"]
DEV += ["--save_strategy", "steps", "--save_steps", "4"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run folder and printed text of one smoke run."""
    flags = ["--max_steps", "4", "--lr_scheduler_type", "constant"]
    return scripts.smoke(RECIPE, tmp_path_factory.mktemp("runs") / "smoke", *flags, *DEV)


def test_smoke_leaves_a_whole_run(smoke: tuple[Path, str]) -> None:
    folder, text = smoke
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["recipe"]["scorer_form"] == "aware"
    assert config["training"]["credit"] == "constant"
    counts = json.loads((folder / "pairs.json").read_text())
    pairs = read_pairs(folder / "pairs.jsonl")
    assert counts["rows"] == 96
    assert len(pairs) == counts["pairs"]
    assert json.loads((folder / "audit.json").read_text())["negatives"].keys() == {"none", "swap"}
    logged = read_jsonl(folder / "record/metrics.jsonl")
    assert sum("reward" in row for row in logged) == 4
    for name in ("rewards/content/mean", "rewards/personalization/mean", "prlm/variance_share/personalization"):
        assert any(name in row for row in logged)
    assert [row["step"] for row in logged if "drift/alarm" in row] == [0, 2, 4]
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert '<section id="rollouts">' in (folder / "report.html").read_text()
    assert (folder / "adapter_model.safetensors").is_file()
    for line in ("swap gap", "share of the advantage variance", "reward model on fresh pairs", "reloaded from disk"):
        assert line in text
    for name in ("own", "generic", "other", "content f1", "parseable"):
        assert f"held-out {name}, recency, k=3" in text


def test_the_best_checkpoint_by_dev_rows_is_given_out(smoke: tuple[Path, str]) -> None:
    folder, text = smoke
    best = json.loads((folder / "best.json").read_text())
    dev = {row["step"]: row["eval_own"] for row in read_jsonl(folder / "record/metrics.jsonl") if "eval_own" in row}
    assert dev.keys() == {2, 4}
    assert (best["step"], best["value"]) == max(dev.items(), key=lambda pair: (pair[1], -pair[0]))
    given, kept = (load_file(path / "adapter_model.safetensors") for path in (folder, folder / best["checkpoint"]))
    assert all(torch.equal(given[name], kept[name]) for name in kept)
    assert f"the best's (step {best['step']})" in text
    assert "eval_temperature" in json.loads((folder / "run.json").read_text())["identity"], "it changes the metric"


def test_evaluation_stands_in_the_folder_by_items_shown(smoke: tuple[Path, str]) -> None:
    folder, _ = smoke
    table = json.loads((folder / "evaluation.json").read_text())
    assert [(row["retriever"], row["k"]) for row in table] == [
        ("recency", 3),
        ("none", 0),
        ("recency", 1),
        ("recency", 2),
        ("recency", 5),
    ]
    for row in table:
        for metric in row["metrics"].values():
            change = metric["after"]["value"] - metric["before"]["value"]
            assert metric["change"]["value"] == pytest.approx(change)
            assert metric["before"]["low"] <= metric["before"]["value"] <= metric["before"]["high"]
    for when in ("before", "after"):
        said = read_jsonl(folder / f"record/held_out_{when}.jsonl")
        assert len(said) == 5 * 32
        assert len({row["id"] for row in said}) == 32


def test_no_user_of_the_audit_was_trained_on(smoke: tuple[Path, str]) -> None:
    folder, _ = smoke
    everyone = read_pairs(folder / "pairs.jsonl")
    held_out = read_pairs(folder / "scorer/held_out.jsonl")
    trained = json.loads((folder / "scorer/scorer.json").read_text())["trained"]
    unseen = {user_of({"user_id": pair.user_id, "profile": []}) for pair in held_out}
    assert len(unseen) >= 2
    assert trained["pairs"] == len(everyone) - len(held_out)
    assert sum(pair.user_id in unseen for pair in everyone) == len(held_out)


def test_the_printed_lines_load_the_adapter_without_rlft(smoke: tuple[Path, str]) -> None:
    assert scripts.loaded_lora(*smoke) > 0


def test_a_run_goes_on_with_its_own_reward_model_and_its_own_start(smoke: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(smoke[0], folder)
    kept = [folder / "scorer/model.safetensors", folder / "pairs.jsonl", folder / "record/held_out_before.jsonl"]
    before = [path.read_bytes() for path in kept]
    flags = ["--smoke", "--output_dir", str(folder), "--resume_from_checkpoint", "true", "--drift_steps", "0"]
    finished = prlm(*flags, *DEV, "--max_steps", "5", "--lr_scheduler_type", "constant")
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert [path.read_bytes() for path in kept] == before
    assert "pairs, " not in finished.stdout
    rewarded = [row["step"] for row in read_jsonl(folder / "record/metrics.jsonl") if "reward" in row]
    assert rewarded == [1, 2, 3, 4, 5]


def test_shear_credit_and_a_given_reward_model_are_a_flag_each(smoke: tuple[Path, str], tmp_path: Path) -> None:
    """Runs without a name are numbered; no pairs are built, and the given folder is audited and copied."""
    flags = ["--smoke", "--max_steps", "2", "--eval_rows", "0", "--scorer", str(smoke[0] / "scorer")]
    finished = prlm(*flags, "--credit", "shear", "--window", "4", "--stride", "2", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr[-3000:]
    folder = tmp_path / "runs/prlm-1"
    assert not (folder / "pairs.jsonl").exists()
    audits = [json.loads((run / "audit.json").read_text()) for run in (folder, smoke[0])]
    assert audits[0] == audits[1]
    assert (folder / "scorer/scorer.json").read_text() == (smoke[0] / "scorer/scorer.json").read_text()
    assert json.loads((folder / "evaluation.json").read_text()) == []


MINE = """
def letters(completions, **kwargs):
    return [float(len(completion[-1]["content"]) % 5) for completion in completions]
"""


def test_lamp_s_files_without_a_reward_model(tmp_path: Path) -> None:
    """Rows that cannot be used are counted; answers that are none count as unparseable."""
    folder = write_lamp_files(tmp_path, 4, StyleTask().world(), {"train": 40, "dev": 8})
    questions = json.loads((folder / "train_questions.json").read_text())
    golds = json.loads((folder / "train_outputs.json").read_text())
    questions[0]["input"] = "no marker"
    golds["golds"].pop(1)
    questions[2] |= {"profile": [], "user_id": "somebody new"}
    (folder / "train_questions.json").write_text(json.dumps(questions))
    (folder / "train_outputs.json").write_text(json.dumps(golds))
    (tmp_path / "mine.py").write_text(MINE)
    out = tmp_path / "run"
    flags = {
        "--dataset_name": str(folder),
        "--task": "4",
        "--dataset_test_split": "dev",
        "--model_name_or_path": "tiny/style-small",
        "--reward_funcs": f"{tmp_path}/mine.py:letters",
        "--train_rows": "0",
        "--retriever": "bm25",
        "--eval_retrievers": "recency",
        "--personalization_weight": "0",
        "--drift_steps": "0",
        "--max_steps": "2",
        "--eval_profiles": "1",
    }
    finished = prlm("--smoke", *(word for pair in flags.items() for word in pair), "--output_dir", str(out))
    assert finished.returncode == 0, finished.stderr[-3000:]
    shown = dict(line.rsplit("  ", 1) for line in finished.stdout.splitlines() if "  " in line)
    counts = {label.strip(): value.strip() for label, value in shown.items()}
    assert counts["rows to train on"] == "38"
    assert counts["left out, train: no 'article:' in the input"] == "1"
    assert counts["left out, train: no output of its id"] == "1"
    left_out = {"train: no 'article:' in the input": 1, "train: no output of its id": 1}
    assert read_provenance(out)["left_out"] == left_out
    assert counts["rows to train on, empty profile"] == counts["rows to train on, fewer than k"] == "1"
    table = json.loads((out / "evaluation.json").read_text())
    settings = [("bm25", 3), ("bm25", 1), ("recency", 3), ("recency", 1)]
    assert [(row["retriever"], row["k"]) for row in table] == settings
    assert list(table[0]["metrics"]) == ["rouge1", "rougeL", "parseable", "thinking_words"]
    assert table[0]["metrics"]["parseable"]["after"]["value"] == 0
    assert not (out / "scorer").exists()


def test_help_imports_no_torch() -> None:
    command = [sys.executable, "-X", "importtime", RECIPE, "--help"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--scorer_form" in done.stdout
    assert "--personalization_weight" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported & {"torch", "transformers", "trl", "peft", "accelerate", "datasets"} == set()


def test_a_reward_model_whose_scores_are_no_numbers_ends_the_run(smoke: tuple[Path, str], tmp_path: Path) -> None:
    folder = shutil.copytree(smoke[0] / "scorer", tmp_path / "scorer")
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] *= float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    flags = ["--smoke", "--scorer", str(folder), "--output_dir", str(tmp_path / "run")]
    finished = prlm(*flags)
    assert finished.returncode == 1
    assert "error: the scorer gave nan for" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "run/adapter_model.safetensors").exists()


def test_the_folder_of_a_run_is_not_overwritten(smoke: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "holds another run" in in_process(monkeypatch, "--smoke", "--output_dir", str(smoke[0]))


def test_two_processes_share_pairs_and_reward_model(smoke: tuple[Path, str], tmp_path: Path) -> None:
    """What the untrained policy answers, and what is learnt of it, is what one process alone makes of it."""
    task = "tiny/style-small"  # its model as a folder, which both find without an interpreter that would warm it up
    flags = ["--smoke", "--model_name_or_path", str(TASKS[task].start(0)), "--dataset_name", task, "--eval_rows", "7"]
    flags += ["--max_steps", "2", "--per_device_train_batch_size", "12", "--scorer_device_batch_size", "32"]
    flags += ["--output_dir", str(tmp_path / "run")]
    finished = prlm(*flags, processes=2)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("Load it:") == 1
    assert (tmp_path / "run/pairs.jsonl").read_bytes() == (smoke[0] / "pairs.jsonl").read_bytes()
    audits = [json.loads((folder / "audit.json").read_text()) for folder in (tmp_path / "run", smoke[0])]
    assert audits[0]["accuracy"] == pytest.approx(audits[1]["accuracy"])
    assert len(read_jsonl(tmp_path / "run/record/held_out_after.jsonl")) == 5 * 7
