"""YAML and flags: flags win, unknown keys name the nearest known one, help needs no torch."""

import importlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rlft.configure import ConfigurationError, parse_recipe, settings
from rlft.tiny import selection

ROOT = Path(__file__).parents[1]


@dataclass
class Options:
    rate: float = field(default=1.0, metadata={"help": "A rate."})
    names: list[str] = field(default_factory=list, metadata={"help": "Names."})

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate={self.rate} must be positive; raise --rate.")


def parse(*argv: str) -> Options:
    (options,) = parse_recipe("shear", lambda: [Options], description="A recipe.", argv=argv)
    return options


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "rate: 3e-3\nnames: [a, b]\n")
    assert parse("--config", path) == Options(rate=3e-3, names=["a", "b"])
    assert parse(f"--config={path}", "--rate", "5").rate == 5.0


def test_environment_of_the_file_is_set_where_the_user_s_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLFT_TEST_MINE", "mine")
    monkeypatch.setenv("RLFT_TEST_OPEN", "to be removed when the test ends")
    monkeypatch.delenv("RLFT_TEST_OPEN")
    parse("--config", write(tmp_path, "env:\n  RLFT_TEST_MINE: 7\n  RLFT_TEST_OPEN: 7\n"))
    assert os.environ["RLFT_TEST_MINE"] == "mine"
    assert os.environ["RLFT_TEST_OPEN"] == "7"


@pytest.mark.parametrize(
    ("text", "argv", "message"),
    [
        ("rtae: 1", (), "mine.yaml: unknown key 'rtae'; did you mean 'rate'?"),
        ("rate: 1", ("--nmes", "a"), "unknown argument 'nmes'; did you mean 'names'?"),
        ("rate: 1", ("--rat=3",), "unknown argument 'rat'; did you mean 'rate'?"),
        ("rate: 1", ("--rate", "fast"), "argument --rate: invalid float value: 'fast'"),
        ("rate: -1", (), "rate=-1 must be positive"),
        ("- rate", (), "must hold `key: value` lines, found list"),
        ("rate: [", (), "not valid YAML"),
    ],
)
def test_mistakes_are_named(text: str, argv: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse("--config", write(tmp_path, text), *argv)
    assert message in str(error.value)


def test_unknown_setting_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="multi_gpu, needle, single_gpu, tiny"):
        parse("--config", "singel_gpu")


@pytest.mark.parametrize(("recipe", "more"), [("shear", {"needle"}), ("exsearch", set()), ("dro", set())])
def test_shipped_settings_are_known(recipe: str, more: set[str]) -> None:
    assert set(settings(recipe)) == {"tiny", "single_gpu", "multi_gpu"} | more


def parse_shipped(recipe: str, name: str, folder: Path) -> Any:
    """The arguments of a shipped setting. bf16 needs a GPU to be accepted; everything else is parsed as it stands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "recipes")
        dataclasses = importlib.import_module(recipe).dataclasses
    argv = ["--config", name, "--bf16", "false", "--use_cpu", "true", "--output_dir", str(folder)]
    return parse_recipe(recipe, dataclasses, description="", argv=argv)


@pytest.mark.parametrize("name", ["tiny", "needle", "single_gpu", "multi_gpu"])
def test_shipped_settings_of_shear_hold_known_keys_only(name: str, tmp_path: Path) -> None:
    *_, training = parse_shipped("shear", name, tmp_path)
    assert training.credit == "shear"
    assert training.stride <= training.window


@pytest.mark.parametrize("name", ["tiny", "single_gpu", "multi_gpu"])
def test_shipped_settings_of_exsearch_hold_known_keys_only(name: str, tmp_path: Path) -> None:
    recipe, data, model, training = parse_shipped("exsearch", name, tmp_path)
    assert training.weighting == "likelihood"
    assert (recipe.retriever is None) == (data.dataset_name == model.model_name_or_path == "tiny/search")
    assert model.use_peft == (name != "multi_gpu")


@pytest.mark.parametrize("name", ["tiny", "single_gpu", "multi_gpu"])
def test_shipped_settings_of_dro_hold_known_keys_only(name: str, tmp_path: Path) -> None:
    recipe, data, model, training = parse_shipped("dro", name, tmp_path)
    assert training.selector_objective == "em"
    assert (recipe.retriever is None) == (data.dataset_name == model.model_name_or_path == "tiny/select")
    assert model.use_peft == (name != "multi_gpu")


def test_the_tiny_setting_of_dro_asks_as_its_model_was_warmed_up(tmp_path: Path) -> None:
    *_, training = parse_shipped("dro", "tiny", tmp_path)
    names = ("list_instruction", "answer_instruction", "closed_book_instruction", "passage_format")
    assert [getattr(training, name) for name in names] == [
        selection.LIST_INSTRUCTION,
        selection.ANSWER_INSTRUCTION,
        selection.CLOSED_BOOK,
        selection.PASSAGE,
    ]
    assert (training.candidates, training.list_size) == (len(selection.RELATIONS), selection.SIZE)


HELP = {
    "recipes/shear.py --help": ["--credit", "--reward_funcs"],
    "recipes/exsearch.py --help": ["--retriever", "--max_hops", "--sampler_url", "--num_rounds", "--min_best_loglik"],
    "recipes/dro.py --help": [
        "--selector_warm_up",
        "--list_size",
        "--sampler_url",
        "--num_rounds",
        "--freeze_selector",
    ],
    "-c import+rlft,+rlft.configure,+rlft.credit.options,+rlft.trainers.search_options,+rlft.trainers.dro_options": [],
    "-c from+rlft.retrieval+import+load_retriever": [],
}


@pytest.mark.parametrize("target", HELP)
def test_help_and_import_load_no_torch(target: str) -> None:
    words = [word.replace("+", " ") for word in target.split()]
    heavy = "{'torch', 'transformers', 'trl'} & set(sys.modules)"
    check = f"import sys; print({heavy}, file=sys.stderr)"
    code = "import runpy, sys, atexit\natexit.register(lambda: exec(CHECK))\n".replace("CHECK", repr(check))
    if words[0] == "-c":
        code += words[1]
    else:
        code += f"sys.argv = {words!r}; runpy.run_path({words[0]!r}, run_name='__main__')"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert finished.stderr.strip() == "set()"
    assert [flag for flag in HELP[target] if f"  {flag} " not in finished.stdout] == []
    listed = re.findall(r"^  (--\w+)", finished.stdout, re.MULTILINE)
    assert [flag for flag in listed if listed.count(flag) > 1] == []
