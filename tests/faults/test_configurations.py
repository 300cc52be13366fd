"""Configurations and data that cannot work: one message of a few lines that names the fix, before a model is loaded."""

import json
import os
import runpy
from pathlib import Path
from typing import Any

import pytest

from rlft.configure import ConfigurationError, parse_recipe
from rlft.data.prompts import load_prompts
from rlft.prepare import prepare
from tests import scripts

RECIPE = runpy.run_path(str(scripts.ROOT / "recipes/shear.py"))
ROWS = [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(24)]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def with_row(**fields: Any) -> str:
    """Good rows, and in their midst one that is not."""
    return lines([*ROWS[:5], {"prompt": "2+2=", "answer": "4"} | fields, *ROWS[5:]])


FILES: dict[str, str | bytes] = {
    "good.jsonl": lines(ROWS),
    "latin1.jsonl": lines(ROWS).replace("5+1=", "5é1=").encode("latin-1"),
    "utf16.jsonl": lines(ROWS).encode("utf-16"),
    "cut.jsonl": lines(ROWS)[:-9],
    "binary.jsonl": bytes(range(256)),
    "numbers.jsonl": "1\n2\n3\n",
    "twice.jsonl": '{"prompt": "a", "prompt": "b", "answer": "1"}\n' * 24,
    "number-prompts.jsonl": lines([{"prompt": i, "answer": "1"} for i in range(24)]),
    "mixed-prompts.jsonl": with_row(prompt=3),
    "mixed-answers.jsonl": with_row(answer=["4"]),
    "blank-prompt.jsonl": with_row(prompt=" \n"),
    "no-prompt.jsonl": with_row(prompt=None),
    "no-turns.jsonl": lines([{"prompt": [], "answer": "1"}] * 24),
    "no-role.jsonl": lines([{"prompt": [{"content": "1+1="}], "answer": "1"}] * 24),
    "nan-answers.jsonl": '{"prompt": "1+1=", "answer": NaN}\n' * 24,
    "same.jsonl": lines(ROWS[:1] * 24),
    "no-answers.jsonl": lines([{"prompt": row["prompt"]} for row in ROWS]),
    "false.parquet": b"PAR1 this is none",
    "twice.yaml": "seed: 1\nseed: 2\n",
    "nested.yaml": "training:\n  seed: 1\n",
    "env.yaml": "env: [A]\n",
    "utf16.yaml": "seed: 1\n".encode("utf-16"),
    "tab.yaml": "seed:\t1\n\tseed: 2",
    "empty.yaml": "",
}


def of(name: str, *flags: str) -> list[str]:
    return ["--dataset_name", f"{{tmp}}/{name}", "--eval_rows", "4", *flags]


DATA = {
    "latin-1": (of("latin1.jsonl"), "latin1.jsonl, line 6 is not UTF-8"),
    "utf-16": (of("utf16.jsonl"), "utf16.jsonl, line 1 is not UTF-8"),
    "truncated JSON": (of("cut.jsonl"), "Is it cut off?"),
    "binary": (of("binary.jsonl"), "is not UTF-8"),
    "numbers in the place of rows": (of("numbers.jsonl"), "cannot be read as json"),
    "column that stands twice in a row": (of("twice.jsonl"), "specified twice"),
    "prompts that are numbers": (of("number-prompts.jsonl"), "the prompt of row 0 is 0;"),
    "prompts of mixed types": (of("mixed-prompts.jsonl"), "column 'prompt' changes its type"),
    "answers of mixed types": (of("mixed-answers.jsonl"), "column 'answer' changes its type"),
    "blank prompt": (of("blank-prompt.jsonl"), "the prompt of row 5 is ' \\n'"),
    "null prompt": (of("no-prompt.jsonl"), "the prompt of row 5 is None"),
    "conversation without turns": (of("no-turns.jsonl"), "the prompt of row 0 is []"),
    "conversation without roles": (of("no-role.jsonl"), "messages with a role each"),
    "answers that are NaN": (of("nan-answers.jsonl"), "the answer of row 0 is NaN"),
    "rows that are all the same": (of("same.jsonl"), "a prompt that is held out too"),
    "missing answers": (of("no-answers.jsonl"), "requires 'answer'"),
    "parquet that is none": (of("false.parquet"), "cannot be read as parquet"),
    "folder in the place of a file": (of("folder.jsonl"), "no such file but a folder"),
    "folder without data": (of("folder"), "no file that ends in .jsonl, .json, .parquet, .csv"),
    "ending with a typo": (of("good.jsnol"), "no file that ends in .jsonl, .json, .parquet, .csv"),
    "empty name": (["--dataset_name", ""], "set --dataset_name"),
    "split that does not exist": (of("good.jsonl", "--dataset_train_split", "trian"), "no split 'trian'"),
    "answer column that does not exist": (of("good.jsonl", "--answer_column", "gold"), "set --answer_column"),
    "all rows held out": (of("good.jsonl", "--eval_rows", "24"), "lower --eval_rows"),
    "fewer than no rows held out": (of("good.jsonl", "--eval_rows", "-1"), "--eval_rows -1"),
}
CONFIGURATIONS = {
    "unknown flag": (["--num_generatoins", "4"], "did you mean 'num_generations'?"),
    "word without a flag": (["tiny"], "unknown argument 'tiny'"),
    "text for a number": (["--num_generations", "four"], "invalid int value: 'four'"),
    "flag without its value": (["--learning_rate"], "expected one argument"),
    "key that stands twice": (["--config", "{tmp}/twice.yaml"], "'seed' stands there twice"),
    "nested keys": (["--config", "{tmp}/nested.yaml"], "unknown key 'training'"),
    "env that is a list": (["--config", "{tmp}/env.yaml"], "env must hold `NAME: value` lines"),
    "settings in utf-16": (["--config", "{tmp}/utf16.yaml"], "is not valid YAML"),
    "settings with tabs": (["--config", "{tmp}/tab.yaml"], "is not valid YAML"),
    "empty settings": (["--config", "{tmp}/empty.yaml"], "must hold `key: value` lines"),
    "folder as settings": (["--config", "{tmp}"], "neither a file nor one of the settings"),
    "group of one": (["--num_generations", "1"], "requires at least 2 generations"),
    "group of none": (["--num_generations", "0"], "num_generations, per_device_train_batch_size"),
    "batch of none": (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size 0: it must be at least 1"),
    "no accumulation": (["--gradient_accumulation_steps", "0"], "must be at least 1 each"),
    "negative rate": (["--learning_rate=-1e-3"], "--learning_rate -0.001: it must be above 0"),
    "rate that is NaN": (["--learning_rate", "nan"], "--learning_rate nan: it must be above 0"),
    "temperature 0": (["--temperature", "0"], "--temperature 0.0: it must be above 0"),
    "completions of no token": (["--max_completion_length", "0"], "--max_completion_length 0"),
    "no steps": (["--max_steps", "0"], "or -1 to go by --num_train_epochs"),
    "adapter of rank 0": (["--lora_r", "0"], "--lora_r 0: it must be at least 1"),
    "dropout of everything": (["--lora_dropout", "1"], "--lora_dropout 1.0: it must lie in [0, 1)"),
    "both half precisions": (["--bf16", "true", "--fp16", "true"], "At most one of fp16 and bf16"),
    "both quantisations": (["--load_in_4bit", "true", "--load_in_8bit", "true"], "8 bit and 4 bit precision"),
    "weights of other rewards": (
        ["--reward_weights", "1", "2"],
        "for 1 --reward_funcs; give one for each",
    ),
    "one reward twice": (["--reward_funcs", "exact_match", "exact_match"], "2 reward functions are named"),
    "reward without its settings": (["--reward_funcs", "length"], "bind it in the spec: length(max_length=...)"),
    "tracker that is not there": (["--report_to", "wandbb"], "--report_to wandbb: no such tracker"),
    "normalisation with a typo": (["--normalize", "groups"], "is not one of group, rollout"),
    "credit without its file": (["--credit", "{tmp}/none.py:f"], "there is no file"),
    "model with a typo": (["--model_name_or_path", "tiny/adition"], "there are tiny/addition,"),
    "model folder without a model": (["--model_name_or_path", "{tmp}/folder"], "the folder has no config.json"),
    "model folder that is not there": (["--model_name_or_path", "./none"], "./none: no such folder"),
    "no threads": (["--torch_threads", "-1"], "--torch_threads -1: it must be at least 1"),
    "output that is a file": (["--output_dir", "{tmp}/good.jsonl"], "name a folder with --output_dir"),
    "output below a file": (["--output_dir", "{tmp}/good.jsonl/run"], "name another --output_dir"),
    "output where nothing can be written": (["--output_dir", "/proc/run"], "name another --output_dir"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for name, content in FILES.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    for name in ("folder", "folder.jsonl"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlft.prepare.model_path", lambda *_: pytest.fail("a model is looked for"))


def refusal(*flags: str) -> str:
    """What `recipes/shear.py` says that is given these flags."""
    with pytest.raises(ConfigurationError) as refused:
        prepare("shear", *parse_recipe("shear", RECIPE["dataclasses"], description="", argv=flags))
    return str(refused.value)


@pytest.mark.parametrize("case", [*DATA, *CONFIGURATIONS])
def test_it_is_refused_in_a_few_lines_that_name_the_fix(case: str, inputs: Path, tmp_path: Path) -> None:
    given, message = (DATA | CONFIGURATIONS)[case]
    flags = [flag.replace("{tmp}", str(inputs)) for flag in given]
    said = refusal(*([] if "--output_dir" in flags else ["--output_dir", str(tmp_path / "run")]), *flags)
    assert said.startswith("error: ")
    assert message in said
    assert len(said.splitlines()) < 10
    assert not (tmp_path / "run").exists()


def test_an_output_folder_without_the_right_to_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)  # root may write anywhere
    assert "cannot be written to; name another --output_dir" in refusal("--output_dir", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.jsonl", b"\xef\xbb\xbf" + lines(ROWS).encode()),
        ("crlf.jsonl", lines(ROWS).replace("\n", "\r\n").encode()),
        ("unended.jsonl", lines(ROWS).rstrip().encode()),
        ("array.json", json.dumps(ROWS).encode()),
        ("array.jsonl", json.dumps(ROWS, indent=1).encode()),
    ],
)
def test_other_ways_to_write_the_same_rows_give_the_same_rows(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    train, test, _ = load_prompts(str(tmp_path / name), held_out=4)
    assert [*train, *test] == ROWS


def test_rows_whose_prompt_is_held_out_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "rows.jsonl").write_text(lines([*ROWS, *ROWS[:2]]))
    train, test, left_out = load_prompts(str(tmp_path / "rows.jsonl"), held_out=2)
    assert left_out == {"train: prompt is held out": 2}
    assert test["prompt"] == ["0+1=", "1+1="]
    assert [*train] == ROWS[2:]
    assert "2 training rows are left out" in caplog.text
