"""The main job as a user runs it: the smoke end to end, and bad input refused before a model is loaded."""

import functools
import hashlib
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlft.cli import main
from rlft.configure import ConfigurationError
from rlft.record.provenance import read_provenance
from rlft.record.rollouts import read_rollouts
from tests import scripts

RECIPE = str(scripts.ROOT / "recipes/shear.py")
shear = functools.partial(scripts.run, RECIPE)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run folder and printed text of one smoke run."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    flags = ["--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "best", "--save_total_limit", "1"]
    finished = scripts.run_afresh(RECIPE, "--smoke", "--output_dir", str(folder), *flags)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return folder, finished.stdout


def test_smoke_leaves_a_whole_run(smoke: tuple[Path, str]) -> None:
    folder, text = smoke
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["training"]["credit"] == "shear"
    rows = list(read_rollouts(folder / "record"))
    assert {row.step for row in rows} == set(range(5))
    assert any(len(set(row.credit)) > 1 for row in rows)
    steps = [json.loads(line) for line in (folder / "record/metrics.jsonl").read_text().splitlines()]
    assert sum("reward" in step for step in steps) == 5
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert '<section id="rollouts">' in (folder / "report.html").read_text()
    assert not (folder / "README.md").exists(), "PEFT's card with nothing filled in"
    for line in ("held-out accuracy, sampled", "held-out accuracy, greedy", "distance from start", "adapter"):
        assert line in text


def test_the_best_checkpoint_by_dev_rows_is_kept(smoke: tuple[Path, str]) -> None:
    folder, text = smoke
    best = json.loads((folder / "best.json").read_text())
    logged = [json.loads(line) for line in (folder / "record/metrics.jsonl").read_text().splitlines()]
    dev = {row["step"]: row["eval_greedy_accuracy"] for row in logged if "eval_greedy_accuracy" in row}
    assert dev.keys() == {2, 4, 5}  # and after the last step
    assert (best["step"], best["value"]) == max(dev.items(), key=lambda pair: (pair[1], -pair[0]))
    assert [path.name for path in folder.glob("checkpoint-*")] == [best["checkpoint"]] == [f"checkpoint-{best['step']}"]
    assert f"best by dev greedy_accuracy  {best['value']:.3f} at step {best['step']}, kept in" in text
    assert not (folder / "record/alarms.jsonl").exists()


def test_what_the_run_was_made_of_is_written_down(smoke: tuple[Path, str]) -> None:
    said = read_provenance(smoke[0])
    assert said["data"]["held out"]["rows"] == 25
    assert said["left_out"] == {}
    rewards = hashlib.sha256((scripts.ROOT / "rewards/exact_match.py").read_bytes()).hexdigest()
    assert said["sources"]["exact_match"]["sha256"] == rewards
    assert said["sources"].keys() == {"exact_match", "answer_match", "shear"}


def test_rlft_eval_finds_the_accuracy_that_the_run_found(
    smoke: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    logged = [json.loads(line) for line in (smoke[0] / "record/metrics.jsonl").read_text().splitlines()]
    own = {name: value for row in logged for name, value in row.items() if name.startswith("accuracy/")}
    assert main(["eval", str(smoke[0]), "--against", "base", "--samples", "0", "--json"]) == 0
    (greedy,) = json.loads(capsys.readouterr().out)
    assert greedy["models"]["smoke"]["value"] == own["accuracy/after_greedy"]
    assert greedy["models"]["base"]["value"] == own["accuracy/before_greedy"]


def test_the_printed_lines_load_the_adapter_without_rlft(smoke: tuple[Path, str]) -> None:
    assert scripts.loaded_lora(*smoke) > 0


def test_the_folder_of_a_run_is_not_overwritten(smoke: tuple[Path, str]) -> None:
    refused = shear("--smoke", "--output_dir", str(smoke[0]))
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "holds another run" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "Loading weights" not in refused.stderr


def test_runs_without_a_name_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "runs/shear-1").mkdir(parents=True)
    finished = shear("--smoke", "--max_steps", "1", "--eval_rows", "0", "--credit", "constant", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert (tmp_path / "runs/shear-2/adapter_model.safetensors").is_file()


def data(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


REWARDS = """
def needs_hint(completions, hint, **kwargs):
    return [0.0] * len(completions)
"""

EVEN = """
def even(completions, **kwargs):
    return [float(text[-1:] in set("02468")) for text in completions]
"""

BAD_INPUT = {
    "reward that does not resolve": (["--reward_funcs", "exact_macth"], "exact_match"),
    "reward that needs a column the dataset lacks": (["--reward_funcs", "{tmp}/mine.py:needs_hint"], "hint"),
    "dataset without prompts": (["--dataset_name", "{tmp}/rows.jsonl", "--eval_rows", "2"], "no column 'prompt'"),
    "dataset that is empty": (["--dataset_name", "{tmp}/empty.jsonl"], "is empty"),
    "dataset with nothing left to train on": (["--dataset_name", "{tmp}/one.jsonl"], "512 were held out"),
    "batch that is no multiple of the group": (["--per_device_train_batch_size", "12"], "divisible by"),
    "window below stride": (["--window", "2", "--stride", "3"], "1 <= stride <= window"),
    "window below 1": (["--window", "0", "--stride", "0"], "1 <= stride <= window"),
    "resuming where nothing was saved": (["--resume_from_checkpoint", "true"], "no folder"),
    "resuming from a folder without checkpoints": (["--resume_from_checkpoint", "{tmp}"], "holds no checkpoint"),
    "unknown key": (["--config", "{tmp}/bad.yaml"], "did you mean 'num_generations'"),
    "adapter target that matches nothing": (["--lora_target_modules", "query"], "'query' matches no module"),
    "dev rows that leave none to train on": (["--eval_strategy", "steps", "--dev_rows", "0"], "--dev_rows 0"),
    "dev metric that is not measured": (
        ["--eval_strategy", "steps", "--metric_for_best_model", "reward"],
        "choose of greedy_accuracy",
    ),
    "action on an alarm that there is not": (["--on_alarm", "halt"], "none of warn, stop"),
    "credit that does not resolve": (["--credit", "sheer"], "shear"),
    "metric that does not resolve": (["--eval_metric", "accurracy"], "answer_match"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_before_a_model_is_loaded(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(REWARDS)
    data(tmp_path, [{"question": "1+1=", "answer": "2"}] * 8)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "one.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}\n')
    (tmp_path / "bad.yaml").write_text("num_generatoins: 4\n")
    flags, message = BAD_INPUT[case]
    out = tmp_path / "run"
    argv = [flag.format(tmp=tmp_path) for flag in flags]
    monkeypatch.setattr("sys.argv", ["shear.py", *argv, "--output_dir", str(out)])
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *_, **__: pytest.fail("model loaded"))
    with pytest.raises(ConfigurationError) as refused:
        runpy.run_path(RECIPE, run_name="__main__")
    assert str(refused.value).startswith("error: ")
    assert message in str(refused.value)
    assert not out.exists()


@pytest.mark.parametrize("credit", ["shear", "constant"])
def test_learning_shows_in_sixteen_steps(credit: str, tmp_path: Path) -> None:
    """Half of the answers are even at first; on the seeds measured 0.94 to 0.97 are at the end, with either credit."""
    (tmp_path / "mine.py").write_text(EVEN)
    task = ["--model_name_or_path", "tiny/addition-1", "--dataset_name", "tiny/addition-1", "--eval_rows", "0"]
    flags = ["--reward_funcs", f"{tmp_path}/mine.py:even", "--max_steps", "16", "--per_device_train_batch_size", "64"]
    finished = shear(*task, *flags, "--credit", credit, "--output_dir", str(tmp_path / "run"))
    assert finished.returncode == 0, finished.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "run/record/metrics.jsonl").read_text().splitlines()]
    rewards = [row["reward"] for row in rows if "reward" in row]
    assert len(rewards) == 16
    assert sum(rewards[12:]) / 4 >= sum(rewards[:4]) / 4 + 0.2


def test_two_processes_run_the_recipe(tmp_path: Path) -> None:
    """Both need the warmed-up model; one trains it, in no process group, and neither waits for the other for ever."""
    flags = ["--smoke", "--max_steps", "2", "--per_device_train_batch_size", "12", "--eval_rows", "7"]
    own_cache = {"RLFT_CACHE": str(tmp_path / "cache")}
    finished = shear(*flags, "--output_dir", str(tmp_path / "run"), processes=2, environment=own_cache)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("Load it:") == 1
    rows = list(read_rollouts(tmp_path / "run/record"))
    assert len(rows) == 2 * 24
    assert {row.group for row in rows} == {0, 1, 2}
    assert (tmp_path / "run/adapter_model.safetensors").is_file()


def test_a_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    """Two steps, then two more in the same folder; the record holds all four. Refused settings leave no trace."""
    folder = tmp_path / "run"
    flags = [
        "--smoke",
        "--output_dir",
        str(folder),
        "--eval_rows",
        "0",
        "--lora_target_modules",
        "q_proj",
        "--save_steps",
        "2",
    ]
    assert shear(*flags, "--max_steps", "2", "--save_strategy", "steps").returncode == 0
    resumed = ["--max_steps", "4", "--save_strategy", "steps", "--resume_from_checkpoint", "true"]
    before = [(folder / name).read_bytes() for name in ("config.yaml", "provenance.json")]
    refused = shear(*flags, *resumed, "--learning_rate", "0.5", "--eval_metric", "exact_match")
    assert "eval_metric was 'answer_match', is 'exact_match'; learning_rate was 0.003, is 0.5" in refused.stderr
    assert [(folder / name).read_bytes() for name in ("config.yaml", "provenance.json")] == before
    on = shear(*flags, *resumed)
    assert on.returncode == 0, on.stderr[-3000:]
    assert [row.step for row in read_rollouts(folder / "record")][::128] == [0, 1, 2, 3]


def test_a_reward_that_fails_ends_the_run_in_few_words(tmp_path: Path) -> None:
    """The user's own frames, one line that names the reward, and where the record is."""
    (tmp_path / "mine.py").write_text("def boom(completions, **kwargs):\n    raise KeyError('gold')\n")
    flags = ["--smoke", "--eval_rows", "0", "--output_dir", str(tmp_path / "run")]
    failed = shear(*flags, "--reward_funcs", f"{tmp_path / 'mine.py'}:boom")
    assert failed.returncode == 1
    ending = failed.stderr[failed.stderr.rindex("Traceback") :]
    assert "mine.py" in ending
    assert "error: reward 'boom' raised KeyError: 'gold'" in ending
    assert str(tmp_path / "run/record") in ending
    assert "grpo_trainer.py" not in ending
