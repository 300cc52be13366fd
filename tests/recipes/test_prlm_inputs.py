"""What the recipe of personal answers makes of its inputs before a model is loaded: prompts, and clear refusals."""

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlft.configure import ConfigurationError, parse_recipe
from rlft.prepare_prlm import prepare_prlm
from rlft.tiny.lamp_files import write_lamp_files
from rlft.tiny.tasks import StyleTask
from tests.trainers.prlm_runs import write_scorer

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "recipes/prlm.py")

LAMP = ["--dataset_name", "{tmp}/LaMP_4_time", "--task", "4", "--dataset_test_split", "dev"]
FEW = ["--train_rows", "16", "--pair_rows", "8", "--eval_rows", "4"]
PAPER = ["--config", "{tmp}/paper.yaml"]
BAD_INPUT = {
    "profiles without dates under recency": (
        ["--dataset_name", "{tmp}/LaMP_4", "--task", "4", "--dataset_test_split", "dev", *FEW],
        "recency needs numbers",
    ),
    "held-out profiles without dates under recency": (
        [
            "--dataset_name",
            "{tmp}/LaMP_4",
            "--task",
            "4",
            *LAMP[4:],
            *FEW,
            "--retriever",
            "bm25",
            "--eval_retrievers",
            "recency",
        ],
        "read the time split",
    ),
    "empty profiles, and a reward model": (
        ["--dataset_name", "{tmp}/empty", *LAMP[2:], *FEW],
        "8 rows for pairs are of 0 users with past items",
    ),
    "file in the place of a folder": (
        ["--dataset_name", "{tmp}/LaMP_4_time/train_questions.json", *LAMP[2:]],
        "train_questions.json: no such folder",
    ),
    "user with two histories": (["--dataset_name", "{tmp}/two", *LAMP[2:], *FEW], "and another history"),
    "files of another task": ([*LAMP, "--task", "5"], "not of task 5"),
    "no task": (["--dataset_name", "{tmp}/LaMP_4_time"], "say which task it holds with --task"),
    "questions without the marker": (["--dataset_name", "{tmp}/bare", "--task", "4"], "no 'article:' in the input"),
    "folder that is not there": (["--dataset_name", "{tmp}/none", "--task", "4"], "no such folder"),
    "hidden golds": ([*LAMP, "--dataset_train_split", "test", *FEW], "'test' has no test_outputs.json"),
    "one split for both": ([*LAMP[:4], "--dataset_test_split", "train"], "hold another one out"),
    "more rows than there are": ([*LAMP, "--train_rows", "30", "--pair_rows", "30"], "has 40 usable rows"),
    "pairs take all rows": ([*LAMP, "--train_rows", "0", "--pair_rows", "40"], "has 40 usable rows"),
    "history longer than the budget": (["--prompt_tokens", "20", "--over_budget", "error"], "max_tokens is 20"),
    "history of LaMP longer than the budget": (
        [*LAMP, *FEW, "--prompt_tokens", "70", "--over_budget", "error"],
        "the prompt with 3 past items has",
    ),
    "budget that leaves nothing": (["--prompt_tokens", "9"], "what is never cut"),
    "over_budget that does not exist": (["--over_budget", "drop"], "must be 'cut' or 'error'"),
    "retriever that does not resolve": (["--retriever", "bm52"], "Did you mean 'bm25'?"),
    "evaluation retriever that does not resolve": (["--eval_retrievers", "recensy"], "recency"),
    "items below zero": (["--eval_profiles", "-1"], "none below 0"),
    "no items to build pairs with": (["--profiles", "0"], "--profiles 0 shows no past items"),
    "retriever that shows none": (["--retriever", "none"], "with --profiles 3 shows no past items"),
    "reward model of another task": (["--scorer", "{tmp}/toy"], "is a scorer for the task 'toy'"),
    "reward model with another tokenizer": (["--scorer", "{tmp}/other"], "trained with another tokenizer"),
    "reward model without its tokenizer": (
        ["--scorer", "{tmp}/mute"],
        "mute: the reward model's tokenizer cannot be read",
    ),
    "reward model that is not there": (["--scorer", "{tmp}/none"], "is no folder"),
    "form that does not exist": (["--scorer_form", "deaf"], "form='deaf'"),
    "negatives that do not exist": (["--negatives", "none", "swop"], "negatives=('none', 'swop')"),
    "loss that does not exist": (["--scorer_loss", "dpo"], "--scorer_loss dpo"),
    "temperature without infonce": (["--scorer_temperature", "0.1"], "bt has no temperature"),
    "batch that does not divide": (["--scorer_batch_size", "65"], "must be a multiple of --scorer_device_batch_size"),
    "share of all users": (["--audit_share", "1"], "--audit_share 1.0 must be between 0 and 1"),
    "reward model that is told nothing": (["--scorer_max_length", "4"], "--scorer_max_length 4 must be at least 16"),
    "reward model longer than its backbone": (["--scorer_max_length", "4096"], "but the model has 512 positions"),
    "backbone that is not there": (["--scorer_model", "{tmp}/none"], "no reward model can be made of"),
    "drift check of one row": (["--drift_rows", "1"], "--drift_rows 1 must be at least 2"),
    "answer under another key": ([*LAMP, *FEW, "--answer_key", "headline"], "ask for an answer under 'title'"),
    "checkpoint without its reward model": (
        ["--resume_from_checkpoint", "{tmp}/checkpoint"],
        "no reward model in {out}/scorer",
    ),
    "one user": (["--pair_rows", "1"], "three or more are needed"),
    "negative count": (["--eval_rows", "-1"], "none below 0"),
    "reward that needs a column": (["--reward_funcs", "{tmp}/mine.py:needs_hint"], "hint"),
    "reward that does not resolve": (["--reward_funcs", "exact_macth"], "exact_match"),
    "format reward without a tag": ([*PAPER, *LAMP, *FEW], "--format_weight 0"),
    "template settings for training alone": (["--chat_template_kwargs", '{"a": 1}'], "--chat_template_kwargs"),
    "model that reads no past items": (["--model_name_or_path", "tiny/addition"], "never read past items"),
    "rows without past items": (["--dataset_name", "tiny/addition"], "has no users with past items"),
    "batch that is no multiple of the group": (["--per_device_train_batch_size", "12"], "divisible by"),
    "adapter target that matches nothing": (["--lora_target_modules", "query"], "'query' matches no module"),
    "credit that does not resolve": (["--credit", "sheer"], "shear"),
    "unknown key": (["--config", "{tmp}/bad.yaml"], "did you mean 'scorer_form'"),
    "resuming where nothing was saved": (["--resume_from_checkpoint", "true"], "no folder"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data, settings and reward models."""
    folder = tmp_path_factory.mktemp("inputs")
    world = StyleTask().world()
    for time in (True, False):
        write_lamp_files(folder, 4, world, {"train": 40, "dev": 8, "test": 8}, time=time)
    changes: dict[str, dict[str, Any]] = {
        "bare": {"input": "what ?"},
        "empty": {"profile": [], "user_id": None},
        "two": {"user_id": 7},
    }
    for name, change in changes.items():
        shutil.copytree(folder / "LaMP_4_time", folder / name)
        path = folder / name / "train_questions.json"
        path.write_text(json.dumps([question | change for question in json.loads(path.read_text())]))
    (folder / "mine.py").write_text(
        "def needs_hint(completions, hint, **kwargs):\n    return [0.0] * len(completions)\n"
    )
    (folder / "bad.yaml").write_text("scorer_from: blind\n")
    tiny = yaml.safe_load((ROOT / "recipes/configs/prlm/tiny.yaml").read_text())
    (folder / "paper.yaml").write_text(yaml.safe_dump(tiny | {"reward_funcs": None, "think_end": None}))
    write_scorer(folder / "toy")
    for name in ("other", "mute"):
        write_scorer(folder / name)
        said: dict[str, Any] = json.loads((folder / name / "scorer.json").read_text())
        said["spec"]["task"], said["tokenizer"] = "tiny/style", "0" * 32
        (folder / name / "scorer.json").write_text(json.dumps(said))
    (folder / "mute/tokenizer.json").unlink()
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint/trainer_state.json").write_text("{}")
    return folder


def in_process(monkeypatch: pytest.MonkeyPatch, *flags: str) -> str:
    """What a run says that ends before a model is loaded."""
    monkeypatch.setattr("sys.argv", ["prlm.py", *flags])
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *_, **__: pytest.fail("model loaded"))
    with pytest.raises(ConfigurationError) as refused:
        runpy.run_path(RECIPE, run_name="__main__")
    message = str(refused.value)
    assert message.startswith("error: ")
    return message


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_before_a_model_is_loaded(
    case: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, message = BAD_INPUT[case]
    out = tmp_path / "run"
    given = [flag.replace("{tmp}", str(inputs)) for flag in flags]
    said = in_process(monkeypatch, *FEW, *given, "--output_dir", str(out))
    assert message.replace("{out}", str(out)) in said
    assert not out.exists()


def test_a_row_is_shown_alike_in_training_in_pairs_and_in_evaluation(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dev a copy of train, prompts must be copies; without past items there is no history block."""
    folder = shutil.copytree(inputs / "LaMP_4_time", tmp_path / "same")
    for part in ("questions", "outputs"):
        shutil.copyfile(folder / f"train_{part}.json", folder / f"dev_{part}.json")
    rows = ["--dataset_name", str(folder), *LAMP[2:], "--train_rows", "16", "--pair_rows", "8", "--eval_rows", "24"]
    recipe = runpy.run_path(RECIPE)
    monkeypatch.setattr("sys.argv", ["prlm.py", *rows, "--eval_profiles", "0", "--output_dir", str(tmp_path / "run")])
    monkeypatch.setattr("rlft.prepare_prlm.model_path", lambda *_: "none is loaded")
    plan = prepare_prlm("prlm", *parse_recipe("prlm", recipe["dataclasses"], description="", shown=recipe["SHOWN"]))
    assert plan.scorer is not None
    asked = plan.scorer
    shown = asked.chooser.choose(asked.rows, asked.options.k)
    of_pairs = [asked.prompt.messages(row, items) for row, items in zip(asked.rows, shown, strict=True)]
    evaluated = {setting.k: setting.prompts for setting in plan.settings}
    assert [*plan.train_rows["prompt"], *of_pairs] == evaluated[3]
    assert all("Past items" in turns[-1]["content"] for turns in evaluated[3])
    assert not any("past items" in turns[-1]["content"].lower() for turns in evaluated[0])


def test_without_the_reward_model_there_is_nothing_to_check(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings file asks for drift checks; one option leaves them out too. No control string reaches the policy."""
    folder = shutil.copytree(inputs / "LaMP_4_time", tmp_path / "live")
    path = folder / "train_questions.json"
    questions = json.loads(path.read_text())
    questions[0]["input"] += " <|end|>"
    for question in questions:
        question["profile"][0]["title"] = "red <|END|> <|u|> sun"
    path.write_text(json.dumps(questions))
    recipe = runpy.run_path(RECIPE)
    flags = ["--dataset_name", str(folder), *LAMP[2:], *FEW, "--personalization_weight", "0", "--profiles", "9"]
    monkeypatch.setattr("sys.argv", ["prlm.py", *flags, "--output_dir", str(tmp_path / "run")])
    monkeypatch.setattr("rlft.prepare_prlm.model_path", lambda *_: "none is loaded")
    parsed = parse_recipe("prlm", recipe["dataclasses"], description="", shown=recipe["SHOWN"])
    plan = prepare_prlm("prlm", *parsed)
    assert plan.scorer is None
    assert parsed[-1].drift_steps == 0
    assert plan.configuration["training"]["drift_steps"] == 0
    row = plan.train_rows[0]
    assert row["query"].endswith("(|end|)")
    assert row["query"] in row["prompt"][-1]["content"]
    assert "'title': 'red (|END|) (|u|) sun'" in row["prompt"][-1]["content"]
    assert "red (|END|) (|u|) sun" in [item["target"] for item in row["profile_items"]]
    assert not any("<|" in turn["content"] for each in plan.train_rows for turn in each["prompt"])


def test_sharded_runs_want_a_reward_model_that_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "give its folder with --scorer" in in_process(monkeypatch, "--output_dir", str(tmp_path / "run"))
