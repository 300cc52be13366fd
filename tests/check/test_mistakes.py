"""The commonest mistakes end in one short message that names the fix, in `rlft check` and in the recipe itself."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.check.conftest import Checked, Refused

REWARDS = """
def one_by_one(completion, answer):
    return float(completion == answer)
"""
MISTAKES = {
    "wrong column": (["--prompt_column", "question"], ["has no column 'question'", "set --prompt_column"]),
    "reward with another signature": (
        ["--reward_funcs", "{tmp}/mine.py:one_by_one"],
        ["requires 'completion'", "Did you mean 'completions'"],
    ),
    "batch that is no multiple of the group": (
        ["--per_device_train_batch_size", "12"],
        ["per_device_train_batch_size=12", "must be a multiple of num_generations=8"],
    ),
    "no pad and no end token": (
        ["--model_name_or_path", "{tmp}/bare"],
        ["neither an end token nor a pad token", "set tokenizer.eos_token and tokenizer.pad_token"],
    ),
    "chat template that is no Jinja": (
        ["--model_name_or_path", "{tmp}/torn", "--system_prompt", "Add."],
        ["the chat template cannot be used: ", "Mend the model's chat_template.jinja."],
    ),
    "misspelt adapter target": (
        ["--lora_target_modules", "q_prj"],
        ["'q_prj' matches no module", "q_proj", "set --lora_target_modules"],
    ),
}


@pytest.fixture
def setting(tmp_path: Path, model: Path, rows: Path) -> list[str]:
    """Flags of a run that is right."""
    (tmp_path / "mine.py").write_text(REWARDS)
    bare = AutoTokenizer.from_pretrained(model)
    bare.pad_token = bare.eos_token = None
    bare.save_pretrained(tmp_path / "bare")
    (tmp_path / "bare/config.json").write_bytes((model / "config.json").read_bytes())
    torn = AutoTokenizer.from_pretrained(model)
    torn.chat_template = "{% for message in messages %}{{ message['content'] {% endfor %}"
    torn.save_pretrained(tmp_path / "torn")
    (tmp_path / "torn/config.json").write_bytes((model / "config.json").read_bytes())
    small = ["--per_device_train_batch_size", "16", "--eval_rows", "8"]
    return ["--model_name_or_path", str(model), "--dataset_name", str(rows), *small]


def flat(text: str) -> str:
    """Without the line breaks that fit it to the terminal."""
    return " ".join(text.split())


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_message(
    mistake: str, setting: list[str], tmp_path: Path, checked: Checked, refused: Refused
) -> None:
    flags, said = MISTAKES[mistake]
    flags = [*setting, *(flag.format(tmp=tmp_path) for flag in flags)]
    code, text = checked("shear", *flags)
    fault = text.partition("\n1 wrong\n")[2].partition("to look at")[0]
    assert code == 1
    assert 0 < len(fault.splitlines()) < 10
    assert max(map(len, fault.splitlines())) <= 80
    message = refused("shear", *flags)
    assert len(message.splitlines()) == 1
    for words in said:
        assert words in flat(fault)
        assert words in flat(message)


def test_all_that_is_wrong_is_shown_at_once(setting: list[str], tmp_path: Path, checked: Checked) -> None:
    several = ["--reward_funcs", "exact_macth", f"{tmp_path}/mine.py:one_by_one", "--credit", "sheer"]
    wrong = [*several, "--lora_target_modules", "q_prj", "--per_device_train_batch_size", "12"]
    code, text = checked("shear", *setting, *wrong)
    assert code == 1
    faults = flat(text.partition("5 wrong")[2])
    for words in ("exact_macth", "requires 'completion'", "sheer", "q_prj", "multiple of num_generations=8"):
        assert words in faults


def test_a_run_that_is_right_has_no_fault(setting: list[str], checked: Checked) -> None:
    code, text = checked("shear", *setting)
    assert code == 0
    assert text.endswith("Nothing is wrong.\n")


def test_without_a_pad_token_the_end_token_pads_and_a_note_says_so(
    setting: list[str], tmp_path: Path, model: Path, checked: Checked
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "bare")
    code, text = checked("shear", *setting, "--model_name_or_path", tmp_path / "bare")
    assert code == 0
    assert "has no pad token. Its end token '<|im_end|>' pads" in flat(text)


def test_flags_that_cannot_be_read_are_one_fault(checked: Checked) -> None:
    code, text = checked("shear", "--num_generatoins", "4")
    assert code == 1
    assert "did you mean 'num_generations'" in flat(text)
    assert "1 wrong" in text


def test_the_folder_of_another_run_is_a_fault(setting: list[str], tmp_path: Path, checked: Checked) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("")
    code, text = checked("shear", *setting, "--output_dir", tmp_path / "run")
    assert code == 1
    assert "holds another run" in flat(text)
