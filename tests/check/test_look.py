"""What `rlft check` says of each recipe's tiny setting, of tokens and templates, of memory and disk."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig

from rlft.check import disk
from rlft.check.text import size_text
from rlft.checks import MISSING, Checks
from rlft.preflight import PreflightError
from rlft.preflight_prompts import check_prompts, prompt_lengths, stop_ids
from rlft.tiny.tokenizer import char_tokenizer
from tests.check.conftest import Checked
from tests.check.test_mistakes import flat
from tests.scripts import ROOT

CHAR = char_tokenizer()
RECIPES = {
    "shear": ["Rewards: means of the first 8 rows", "optimiser steps 150"],
    "prlm": ["Rewards: means of the first 8 rows", "rows to train on 1280"],
    "exsearch": ["questions to train on 1320", "trajectories per round 1024"],
    "dro": ["lists per round 1024, of 2 out of 6 candidates"],
    "stoc": ["new samples 400", "all 0.14 M parameters"],
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_tiny_setting_is_right_and_nothing_is_loaded_or_left(recipe: str, checked: Checked) -> None:
    code, text = checked(recipe)
    assert code == 0, text
    assert max(map(len, text.splitlines())) <= 80
    for words in (*RECIPES[recipe], "KV cache", "at most"):
        assert words in flat(text)


WRONG = {
    "shear": (["--reward_weights", "1", "2", "--lora_target_modules", "q_prj"], ["give one for each", "q_prj"]),
    "prlm": (["--eval_temperature", "-1", "--lora_target_modules", "q_prj"], ["which is greedy", "q_prj"]),
    "exsearch": (["--retriever", "bm52", "--lora_target_modules", "q_prj"], ["'bm52'", "q_prj"]),
    "dro": (["--generator_warm_up", "none.jsonl", "--lora_target_modules", "q_prj"], ["none.jsonl", "q_prj"]),
    "stoc": (["--arms", "stock", "--max_length", "600"], ["stock", "512 positions"]),
}


@pytest.mark.parametrize("recipe", WRONG)
def test_each_recipe_collects_what_is_wrong(recipe: str, checked: Checked) -> None:
    flags, said = WRONG[recipe]
    code, text = checked(recipe, "--smoke", *flags)
    assert code == 1
    assert "2 wrong" in text
    for words in said:
        assert words in flat(text.partition("2 wrong")[2])


@pytest.mark.parametrize("recipe", ["exsearch", "dro"])
def test_questions_are_tried_as_the_trainer_tries_them(recipe: str, checked: Checked) -> None:
    code, text = checked(recipe, "--smoke", "--max_tokens", "900")
    assert code == 1
    assert "max_tokens=900 is above the model's 512 positions" in flat(text)


def test_a_copy_of_a_recipe_under_another_name(model: Path, rows: Path, tmp_path: Path, checked: Checked) -> None:
    copy = tmp_path / "mine.py"
    copy.write_text((ROOT / "recipes/shear.py").read_text())
    flags = ["--model_name_or_path", model, "--dataset_name", rows, "--per_device_train_batch_size", "16"]
    assert checked(copy, *flags, "--eval_rows", "0")[0] == 0


def test_figures_as_json(model: Path, rows: Path, checked: Checked) -> None:
    flags = ["--model_name_or_path", model, "--dataset_name", rows, "--eval_rows", "0", "--bf16", "true"]
    code, text = checked("shear", *flags, "--per_device_train_batch_size", "16", "--json", "--device_gib", "1")
    figures = json.loads(text)
    assert code == 0
    assert figures["batches"]["completions per prompt (group)"] == "8"
    assert figures["stop_ids"] == [CHAR.eos_token_id]
    assert figures["longest_prompt"] == len("39+39=")
    assert figures["memory_bytes"]["weights"] == 4 * figures["model"]["parameters"]
    assert figures["rewards"]["means"]["exact_match"]["gold"] == 1


def test_a_configuration_for_a_gpu_is_looked_at_without_one(checked: Checked) -> None:
    code, text = checked("stoc", "--smoke", "--use_cpu", "false", "--bf16", "true")
    assert code == 0, text


def test_batches_of_several_processes(model: Path, rows: Path, checked: Checked) -> None:
    flags = ["--model_name_or_path", model, "--dataset_name", rows, "--eval_rows", "0", "--json"]
    code, text = checked("shear", *flags, "--num_processes", "4", "--per_device_train_batch_size", "2")
    assert code == 0
    assert json.loads(text)["batches"]["processes"] == "4"
    assert checked("shear", *flags, "--per_device_train_batch_size", "2")[0] == 1  # 2 completions make no group of 8


def test_too_little_memory_and_disk_name_the_knob(
    model: Path, rows: Path, checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 10_000)
    flags = ["--model_name_or_path", model, "--dataset_name", rows, "--eval_rows", "0", "--save_strategy", "steps"]
    code, text = checked("shear", *flags, "--per_device_train_batch_size", "16", "--device_gib", "0.001")
    assert code == 1
    assert "The largest part is activations" in flat(text)
    assert "--gradient_checkpointing true" in flat(text)
    assert "9.8 KiB are free" in flat(text) or "10 KiB are free" in flat(text)
    assert "--save_total_limit 1" in flat(text)


def test_files_that_a_run_could_not_begin_with_are_among_the_faults(
    model: Path, rows: Path, tmp_path: Path, checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are no part of a check; that they are there as a pickle alone is known before."""
    folder = tmp_path / "pickled"
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    flags = ["--dataset_name", rows, "--eval_rows", "0", "--per_device_train_batch_size", "16"]
    assert checked("shear", "--model_name_or_path", folder, *flags)[0] == 0
    (folder / "pytorch_model.bin").touch()
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)  # root may write anywhere
    code, text = checked("shear", "--model_name_or_path", folder, *flags)
    assert code == 1
    assert "2 wrong" in text
    assert "gives its weights as pytorch_model.bin, a pickle" in flat(text)
    assert "output_dir 'runs' cannot be made, since" in flat(text)
    code, text = checked("shear", "--model_name_or_path", model, *flags, "--output_dir", rows / "in-a-file")
    assert code == 1
    assert "rows.jsonl is a file; name another --output_dir" in flat(text)


def test_rows_that_are_too_long_are_counted_and_named(model: Path, tmp_path: Path, checked: Checked) -> None:
    prompts = ["1+1=", "2" * 480, "3" * 490, "4" * 20]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt, "answer": "1"}) + "\n" for prompt in prompts * 8))
    code, text = checked("shear", "--model_name_or_path", model, "--dataset_name", path, "--eval_rows", "0")
    assert code == 1
    assert "16 of 32 prompts are too long: the model has 512 positions, less --max_completion_length 40" in flat(text)
    assert "has 490" in flat(text)


def test_a_template_that_ends_turns_where_nothing_stops(
    model: Path, rows: Path, tmp_path: Path, checked: Checked
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.eos_token = "<|unk|>"
    folder = tmp_path / "other"
    tokenizer.save_pretrained(folder)
    config = json.loads((model / "config.json").read_text()) | {"eos_token_id": tokenizer.eos_token_id}
    (folder / "config.json").write_text(json.dumps(config))
    flags = [
        "--dataset_name",
        rows,
        "--eval_rows",
        "0",
        "--system_prompt",
        "Add.",
        "--per_device_train_batch_size",
        "16",
    ]
    code, text = checked("shear", *flags, "--model_name_or_path", folder)
    assert code == 0
    assert "the chat template ends a turn with <|im_end|>, at which no completion stops" in flat(text)


def test_the_model_itself_is_tried_when_asked_for(
    model: Path, rows: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlft.cli import main

    monkeypatch.chdir(tmp_path)
    flags = ["--model_name_or_path", str(model), "--dataset_name", str(rows), "--eval_rows", "0", "--weights"]
    assert main(["check", "shear", *flags, "--per_device_train_batch_size", "16"]) == 0
    assert "on 16 tokens, with a gradient for every trained weight" in flat(capsys.readouterr().out)


def test_no_such_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    from rlft.cli import main

    assert main(["check", "sheer"]) == 1
    assert "there is no recipe 'sheer'; give dro, exsearch, prlm, shear, stoc" in capsys.readouterr().err


def test_stop_ids_are_those_of_tokenizer_and_generation_config() -> None:
    assert stop_ids(CHAR, None) == {3: ["tokenizer"]}
    assert stop_ids(CHAR, GenerationConfig(eos_token_id=[3, 2])) == {
        3: ["tokenizer", "generation config"],
        2: ["generation config"],
    }
    assert stop_ids(CHAR, GenerationConfig(eos_token_id=2)) == {3: ["tokenizer"], 2: ["generation config"]}


CHAT: list[Any] = [[{"role": "user", "content": "5" * 30}], [{"role": "user", "content": "6"}]]


def test_prompts_are_as_long_as_the_tokenizer_makes_them() -> None:
    assert prompt_lengths(["1+1=", "22"], CHAR, None) == [4, 2]
    rendered = [CHAR.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] for chat in CHAT]
    assert prompt_lengths(CHAT, CHAR, None) == [len(ids) for ids in rendered]
    bare = char_tokenizer()
    bare.chat_template = None
    with pytest.raises(PreflightError, match="no chat template to write them with"):
        prompt_lengths(CHAT, bare, None)


@pytest.mark.parametrize("prompts", [["5" * 30, "6"], CHAT], ids=["texts", "conversations"])
def test_no_prompt_is_refused_that_fits_and_each_that_does_not(prompts: list[Any]) -> None:
    longest = max(prompt_lengths(prompts, CHAR, None))
    check_prompts(prompts, CHAR, longest + 10, 10)
    with pytest.raises(PreflightError, match=f"1 of 2 prompts are too long.* row 0 has {longest}"):
        check_prompts(prompts, CHAR, longest + 9, 10)
    with pytest.raises(PreflightError, match="leaves no room for a prompt"):
        check_prompts(prompts, CHAR, 10, 10)


def test_checks_go_on_or_stop_and_pass_over_what_is_missing() -> None:
    def refuse(*_: object) -> None:
        raise ValueError("wrong")

    checks = Checks(go_on=True)
    assert checks.of("a", refuse) is MISSING
    assert checks.of("b", lambda given: given, MISSING) is MISSING
    assert checks.of("c", refuse) is MISSING
    assert [tuple(one) for one in checks.faults] == [("a", "wrong")]
    with pytest.raises(ValueError, match="wrong"):
        Checks().of("a", refuse)


def test_sizes_for_people() -> None:
    assert [size_text(count) for count in (5, 2048, 3 * 1024**2, 2.5 * 1024**3)] == ["5 B", "2 KiB", "3 MiB", "2.5 GiB"]
