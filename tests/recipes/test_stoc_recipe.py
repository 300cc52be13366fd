"""The recipe of replay as a user runs it: the smoke, going on, rows of one's own, bad input refused early."""

import gzip
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlft.configure import ConfigurationError, parse_recipe, settings
from rlft.record.jsonl import read_jsonl
from rlft.record.provenance import read_provenance
from rlft.tiny.biography_task import BiographyTask
from rlft.tiny.tasks import TASKS, warm_start
from rlft.trainers.stoc_arms import ARMS as KNOWN
from rlft.trainers.stoc_arms import arms_of
from tests import scripts

RECIPE = str(scripts.ROOT / "recipes/stoc.py")
SMALL = "tiny/biographies-small"
ARMS = ["none", "real", "released", "recommended"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run folder and printed text of one smoke run."""
    return scripts.smoke(RECIPE, tmp_path_factory.mktemp("runs") / "smoke", "--arms", *ARMS)


def in_process(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr("sys.argv", ["stoc.py", *flags])
    runpy.run_path(RECIPE, run_name="__main__")


def zipped(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


@pytest.mark.parametrize("name", ["tiny", "single_gpu", "synthetic", "multi_gpu"])
def test_shipped_settings_give_every_arm_that_they_name(name: str, tmp_path: Path) -> None:
    """bf16 needs a GPU to be accepted; everything else is parsed as it stands."""
    argv = ["--config", name, "--bf16", "false", "--use_cpu", "true", "--output_dir", str(tmp_path)]
    types = runpy.run_path(RECIPE)["dataclasses"]
    recipe, _, _, training = parse_recipe("stoc", types, description="", argv=argv)
    arms = arms_of(recipe.arms, training, {"ewc": recipe.ewc_strength, "l2": recipe.l2_strength})
    assert list(arms) == recipe.arms
    if name != "synthetic":
        arms_of(list(KNOWN), training, {"ewc": recipe.ewc_strength, "l2": recipe.l2_strength})
    assert set(settings("stoc")) == {"tiny", "single_gpu", "multi_gpu", "synthetic"}


def test_help_answers_without_torch() -> None:
    code = "import runpy, sys, atexit\natexit.register(lambda: print({'torch', 'trl'} & set(sys.modules)))\n"
    code += f"sys.argv = ['stoc.py', '--help']\nrunpy.run_path({RECIPE!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(scripts.ROOT)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("set()\n")
    for flag in ("--arms", "--scorer", "--replay_breadth", "--old_probes", "--learning_rate"):
        assert flag in done.stdout


def test_smoke_leaves_a_whole_run_of_each_arm(smoke: tuple[Path, str]) -> None:
    folder, text = smoke
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["training"]["none"]["alpha"] == 1.0
    assert config["training"]["released"]["alpha"] == 0.5
    for arm in ARMS:
        assert (folder / arm / "model.safetensors").is_file()
        logged = read_jsonl(folder / arm / "record/metrics.jsonl")
        assert [row["step"] for row in logged if "loss" in row] == [1, 2, 3, 4, 5]
        assert [row["step"] for row in logged if "probe/old/hfta" in row] == [0, 5]
        asked = zipped(folder / arm / "probes.jsonl.gz")
        assert sorted({row["set"] for row in asked}) == ["new", "old"]
        assert len(asked) == 64
        assert f"arm {arm}: old " in text
    assert (folder / "forgetting.png").read_bytes().startswith(b"\x89PNG")
    assert '<section id="rollouts">' in (folder / "report.html").read_text()
    assert text.count("reloaded: log-probs differ by ") == 2 * len(ARMS)
    assert "50% of the tokens new, 50% replay" in text
    assert text.count("(50.00%; asked for: alpha = 0.5) in ") == len(ARMS) - 1


def test_the_comparison_is_what_the_probes_say(smoke: tuple[Path, str]) -> None:
    folder, text = smoke
    table = json.loads((folder / "comparison.json").read_text())
    assert [row["arm"] for row in table] == ARMS
    for row in table:
        asked = zipped(folder / row["arm"] / "probes.jsonl.gz")
        for which in ("old", "new"):
            found = row["recall"][which]["hfta"]
            for when in ("before", "after"):
                values = [one[when]["hfta"] for one in asked if one["set"] == which]
                assert found[when]["value"] == pytest.approx(sum(values) / len(values))
                assert found[when]["low"] <= found[when]["value"] <= found[when]["high"]
            assert f"{found['after']['value']:.3f} [" in text
    before = [row["recall"]["old"]["hfta"]["before"] for row in table]
    assert before == [before[0]] * len(ARMS), "every arm starts where the others do"


def test_replay_is_audited_where_all_that_is_true_is_known(smoke: tuple[Path, str]) -> None:
    stated = {row["arm"]: row["replay"].get("stated") for row in json.loads((smoke[0] / "comparison.json").read_text())}
    assert stated["none"] is None
    real = stated["real"]
    assert real["about_old"] == real["stated"] == real["true_of_old"] > 100
    assert (real["about_new"], real["old_people"]) == (0, 40)
    assert stated["released"]["stated"] > 0
    mixes = {row["arm"]: row["replay"]["mix"] for row in json.loads((smoke[0] / "comparison.json").read_text())}
    assert mixes["none"]["new_of_tokens"] == 1
    for arm in ARMS[1:]:
        assert mixes[arm]["new_of_tokens"] == pytest.approx(0.5, rel=1e-3)
    assert mixes["recommended"]["replay_tokens"] == 3 * mixes["released"]["replay_tokens"]


def test_a_run_goes_on_with_the_arms_it_lacks(
    smoke: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(smoke[0], folder)
    (folder / "released/arm.json").unlink()
    kept = {path: path.stat().st_mtime_ns for arm in ("none", "real") for path in (folder / arm).rglob("*")}
    written = (folder / "released/replay/kept.jsonl.gz").stat().st_mtime_ns
    flags = ["--smoke", "--output_dir", str(folder), "--resume_from_checkpoint", "true"]
    in_process(monkeypatch, *flags, "--arms", "none", "real", "released", "ewc")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (folder / "released/replay/kept.jsonl.gz").stat().st_mtime_ns == written
    said = capsys.readouterr().out
    assert "arm none: old" not in said
    assert "arm released: old" in said
    first, second = (json.loads((run / "comparison.json").read_text()) for run in (smoke[0], folder))
    assert [row["arm"] for row in second] == ["none", "real", "released", "ewc"]
    assert second[2]["recall"] == first[2]["recall"], "the same again"
    assert second[3]["options"]["anchor"] == "ewc"
    assert second[3]["recall"] != second[0]["recall"]
    with pytest.raises(ConfigurationError, match="learning_rate was 0.001, is 0.01"):
        in_process(monkeypatch, *flags, "--arms", "none", "--learning_rate", "0.01")


def test_a_run_goes_on_as_what_it_was(smoke: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arms of one comparison share everything but what makes them arms, and one arm's folder is its own."""
    folder = tmp_path / "run"
    shutil.copytree(smoke[0], folder)
    flags = ["--smoke", "--output_dir", str(folder), "--resume_from_checkpoint", "true", "--arms"]
    for changed, message in (
        (["none", "l2", "--use_peft", "true"], "use_peft was False, is True"),
        (["none", "l2", "--max_grad_norm", "0.5"], "max_grad_norm was 1.0, is 0.5"),
        (["l2"], "arms was 'several', is 'l2'"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            in_process(monkeypatch, *flags, *changed)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data, probes and settings in words that the small model knows."""
    folder, task = tmp_path_factory.mktemp("inputs"), TASKS[SMALL]
    assert isinstance(task, BiographyTask)
    probes = {which: task.probes(which, 0)[:12] for which in ("old", "new")}
    tables: dict[str, list[dict[str, Any]]] = {
        "rows": task.rows(40, 0),
        "bare": [{"text": row["text"]} for row in task.rows(4, 0)],
        "twice": [{"id": "1", "text": row["text"]} for row in task.rows(2, 0)],
        "wrong": [{"prompt": "x"}],
        "cut": [{"prompt": "ab", "completion": "cd"}],
        "odd": [{"prompt": "desu", "answer": ""}],
        **{f"{which}_probes": found for which, found in probes.items()},
    }
    for name, rows in tables.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = zip(probes["new"], probes["old"], strict=True)
    records = [
        {
            "subject": new["subject"],
            "prompt": new["prompt"],
            "target_new": new["answer"],
            "locality": {"Other": [{"prompt": old["prompt"], "ground_truth": [[old["answer"]]]}]},
        }
        for new, old in facts
    ]
    (folder / "recent.json").write_text(json.dumps([*records, records[0]]))
    (folder / "bad.yaml").write_text("alfa: 0.5\n")
    return folder


def test_rows_of_one_s_own_with_an_adapter(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One arm is a plain run; where nothing is known to be true, nothing is audited."""
    folder = tmp_path / "run"
    probes = [flag for which in ("old", "new") for flag in (f"--{which}_probes", str(inputs / f"{which}_probes.jsonl"))]
    flags = ["--smoke", "--model_name_or_path", str(warm_start(SMALL, 0)), "--dataset_name", str(inputs / "rows.jsonl")]
    adapter = ["--use_peft", "true", "--lora_target_modules", "all-linear"]
    options = ["--arms", "stoc", "--scorer", "fair", "--drop_new_subjects", "true", "--output_dir", str(folder)]
    in_process(monkeypatch, *flags, *probes, *adapter, *options)
    assert (folder / "adapter_model.safetensors").is_file()
    found = json.loads((folder / "arm.json").read_text())
    assert (found["options"]["scorer"], found["options"]["alpha"]) == ("fair", 0.5)
    assert "stated" not in found["replay"]
    assert found["replay"]["filter"]["dropped"]["new_subject"] > 0
    assert "AutoPeftModelForCausalLM" in capsys.readouterr().out


def test_knowedit_from_random_weights(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real replay needs old data beside the questions about it."""
    shape = ["--model_name_or_path", str(warm_start(SMALL, 0)), "--from_scratch", "true"]
    flags = ["--smoke", *shape, "--dataset_name", str(inputs / "recent.json"), "--recall", "soft"]
    with pytest.raises(ConfigurationError, match="arm 'real' needs old data"):
        in_process(monkeypatch, *flags, "--arms", "none", "real", "--output_dir", str(tmp_path / "none"))
    capsys.readouterr()
    old = ["--old_dataset", str(inputs / "bare.jsonl")]
    in_process(monkeypatch, *flags, *old, "--arms", "none", "real", "--output_dir", str(tmp_path / "run"))
    said = capsys.readouterr().out
    assert "left out, new: duplicate  1" in said
    assert read_provenance(tmp_path / "run")["left_out"] == {"new: duplicate": 1, "old: duplicate": 1}
    table = json.loads((tmp_path / "run/comparison.json").read_text())
    assert table[0]["recall"]["old"]["soft"]["before"]["value"] < 0.2
    assert table[0]["recall"]["old"]["soft"]["before"] == table[1]["recall"]["old"]["soft"]["before"]


def test_replay_that_is_too_little_is_said(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--smoke", "--output_dir", str(tmp_path / "run"), "--arms", "released", "--short", "error"]
    with pytest.raises(SystemExit, match="Generate more") as refused:
        in_process(monkeypatch, *flags, "--max_repetition", "0.0")
    assert "Other settings need another --output_dir" in str(refused.value)


BAD_INPUT: dict[str, tuple[list[str], str]] = {
    "arm": (["--arms", "nome"], "--arms nome: there are stoc"),
    "alpha": (["--alpha", "1.5"], "alpha=1.5"),
    "recall": (["--recall", "rouge"], "--recall rouge is none of"),
    "probe rows": (["--probe_rows", "-1"], "--probe_rows -1"),
    "phase": (["--phase", "third"], "phase 'third'"),
    "no data": (["--dataset_name", "{in}/none.jsonl"], "none.jsonl: no such file"),
    "columns": (["--dataset_name", "{in}/wrong.jsonl", "--arms", "bos"], "line 1 has columns prompt"),
    "ids": (["--dataset_name", "{in}/twice.jsonl", "--arms", "bos"], "id '1' comes twice"),
    "boundary": (["--dataset_name", "{in}/cut.jsonl", "--arms", "bos"], "do not stay the same"),
    "probes": (["--dataset_name", "{in}/rows.jsonl", "--new_probes", "{in}/odd.jsonl"], "line 1: a probe has"),
    "nothing to compare by": (["--dataset_name", "{in}/rows.jsonl", "--arms", "bos", "none"], "probes of neither"),
    "layout": (["--dataset_name", "{in}/recent.json", "--layout", "zsr"], "layout 'zsr' is unknown"),
    "files beside people": (["--old_dataset", "{in}/bare.jsonl"], "leave files and --layout out"),
    "task without phases": (["--dataset_name", "tiny/addition"], "no old and new data"),
    "task that is none": (["--dataset_name", "tiny/biography"], "no embedded task"),
    "model of another task": (["--model_name_or_path", "tiny/style"], "give tiny/biographies"),
    "random weights of people": (["--from_scratch", "true"], "without --from_scratch"),
    "people": (["--dataset_name", "biographies", "--old_people", "0"], "0 old and"),
    "copies": (["--dataset_name", "biographies", "--copies", "0"], "--copies 0"),
    "subjects": (
        ["--dataset_name", "{in}/bare.jsonl", "--arms", "bos", "--drop_new_subjects", "true"],
        "no row has one",
    ),
    "adapter": (["--use_peft", "true", "--lora_target_modules", "query"], "'query' matches no module"),
    "key": (["--config", "{in}/bad.yaml"], "did you mean 'alpha'"),
    "resuming": (["--resume_from_checkpoint", "true"], "holds no run"),
    "checkpoint of several": (["--resume_from_checkpoint", "x"], "is one arm's"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_before_a_model_is_loaded(
    case: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, message = BAD_INPUT[case]
    out = tmp_path / "run"
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *_, **__: pytest.fail("model loaded"))
    with pytest.raises(ConfigurationError) as refused:
        in_process(monkeypatch, *(flag.replace("{in}", str(inputs)) for flag in flags), "--output_dir", str(out))
    assert message in str(refused.value)
    assert not out.exists()


def test_the_folder_of_a_run_is_not_overwritten(smoke: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="holds another run"):
        in_process(monkeypatch, "--smoke", "--output_dir", str(smoke[0]))
