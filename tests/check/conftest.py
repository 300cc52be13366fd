"""A random model on disk, rows, and the two ways to meet a mistake: `rlft check`, and the recipe itself."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from rlft.cli import main
from rlft.configure import ConfigurationError
from tests.scripts import ROOT
from tests.shared import write_model

Checked = Callable[..., tuple[int, str]]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Qwen3 with its tokenizer."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 40 additions."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n}+{n}=", "answer": str(2 * n)}) + "\n" for n in range(40)))
    return path


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fail where a model is loaded; and start in an empty folder."""

    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def checked(capsys: pytest.CaptureFixture[str], nothing_loaded: None) -> Checked:
    """Exit code and text of `rlft check`."""

    def run(*flags: object) -> tuple[int, str]:
        code = main(["check", *map(str, flags)])
        assert list(Path.cwd().iterdir()) == []
        return code, capsys.readouterr().out

    return run


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, nothing_loaded: None) -> Refused:
    """What a recipe ends with."""

    def run(recipe: str, *flags: object) -> str:
        monkeypatch.setattr(sys, "argv", [recipe, *map(str, flags)])
        with pytest.raises(ConfigurationError) as error:
            runpy.run_path(str(ROOT / f"recipes/{recipe}.py"), run_name="__main__")
        return str(error.value)

    return run
