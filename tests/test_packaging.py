"""The wheel holds what it should and works with the repository out of reach; imports stay light; all is pinned."""

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def files_below(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts]


def run_from_wheel(wheel: Path, cwd: Path, *command: str) -> str:
    """Output of Python in `cwd`, without the repository: -S leaves out the editable install."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(wheel), packages])}
    command = (sys.executable, "-S", *command)
    return subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True).stdout


def test_wheel_carries_rewards_recipes_and_settings_and_nothing_else(wheel: Path) -> None:
    held = {str(file.relative_to(wheel)) for file in files_below(wheel)}
    expected = {str(file.relative_to(ROOT)) for file in files_below(ROOT / "rlft")}
    for folder in ("rewards", "recipes"):
        expected |= {f"rlft/_shipped/{file.relative_to(ROOT)}" for file in files_below(ROOT / folder)}
    metadata = {name for name in held if ".dist-info/" in name}
    assert held - metadata == expected
    assert any(name.endswith("licenses/LICENSE") for name in metadata)


def test_wheel_lists_and_copies_recipes_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    where = "import rlft, rlft.assets as a; print(rlft.__file__, a.shipped('recipes'), a.shipped('rewards'))"
    assert all(path.startswith(str(wheel)) for path in run_from_wheel(wheel, tmp_path, "-c", where).split())
    assert "shear" in run_from_wheel(wheel, tmp_path, "-m", "rlft", "recipes")
    run_from_wheel(wheel, tmp_path, "-m", "rlft", "recipes", "copy", "shear", "mine")
    assert (tmp_path / "mine/shear.py").read_text() == (ROOT / "recipes/shear.py").read_text()
    assert (tmp_path / "mine/configs/shear/tiny.yaml").exists()
    assert (tmp_path / "mine/accelerate/fsdp2.yaml").exists()
    assert "--reward_funcs" in run_from_wheel(wheel, tmp_path, "mine/shear.py", "--help")


def test_wheel_finds_rewards_by_name(wheel: Path, tmp_path: Path) -> None:
    code = (
        "from rlft.rewards import load_rewards; print(load_rewards(['exact_match'])[0](['4', '5'], answer=['5', '5']))"
    )
    assert run_from_wheel(wheel, tmp_path, "-c", code) == "[0.0, 1.0]\n"


def rlft(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "rlft", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_command_lists_everything_with_a_line_each() -> None:
    for command, files in (("recipes", ROOT.glob("recipes/**/shear*/*.yaml")), ("rewards", ROOT.glob("rewards/*.py"))):
        listed = dict(line.split(maxsplit=1) for line in rlft(command).stdout.split("\n\n")[0].splitlines())
        assert {file.stem for file in files} <= listed.keys()


def test_copy_overwrites_nothing_unless_forced(tmp_path: Path) -> None:
    assert rlft("recipes", "copy", "shear", cwd=tmp_path).returncode == 0
    (tmp_path / "shear.py").write_text("mine")
    (tmp_path / "configs/shear/tiny.yaml").unlink()
    refused = rlft("recipes", "copy", "shear", cwd=tmp_path)
    assert refused.returncode == 1
    assert "shear.py is there already" in refused.stderr
    assert (tmp_path / "shear.py").read_text() == "mine"
    assert not (tmp_path / "configs/shear/tiny.yaml").exists(), "a refused copy copies nothing"
    assert rlft("recipes", "copy", "shear", "--force", cwd=tmp_path).returncode == 0
    assert (tmp_path / "shear.py").read_text() != "mine"
    assert rlft("recipes", "copy", "exsearch", cwd=tmp_path).returncode == 0, "files that both have are equal"


def test_an_unknown_recipe_is_answered_with_those_there_are(tmp_path: Path) -> None:
    done = rlft("recipes", "copy", "shaer", cwd=tmp_path)
    assert done.returncode == 1
    assert "no recipe 'shaer'; there is: " in done.stderr
    assert "shear" in done.stderr.split("there is: ")[1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argv",
    [
        ["-c", "import rlft"],
        ["-m", "rlft", "--help"],
        ["-m", "rlft", "recipes"],
        ["-m", "rlft", "rewards"],
        ["-c", "from rlft.launch import make_plan; make_plan(['recipes/shear.py'])"],
        ["recipes/shear.py", "--help"],
    ],
    ids=" ".join,
)
def test_what_must_answer_at_once_imports_nothing_heavy(argv: list[str]) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-X", "importtime", *argv]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "rlft" in imported
    assert imported & set(HEAVY) == set()


def test_constraints_pin_exactly() -> None:
    for pin in PINS:
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert not {"+", "*"} & set(specifier.version), "no local versions, no wildcards"


def test_constraints_hold_everything_that_is_installed_and_fit_the_project() -> None:
    pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in PINS}
    missing = {name for name in closure(DIRECT) if name not in pinned}
    assert missing == set()
    assert [r for r in DIRECT if not r.specifier.contains(pinned[canonicalize_name(r.name)])] == []


def closure(requirements: list[Requirement]) -> set[str]:
    """Names of the requirements and of what they require in turn, on this platform."""
    seen: set[tuple[str, str]] = set()
    queue = list(requirements)
    while queue:
        wanted = queue.pop()
        for extra in ("", *wanted.extras):
            if (wanted.name, extra) not in seen:
                seen.add((wanted.name, extra))
                below = [Requirement(line) for line in requires(wanted.name) or []]
                queue += [r for r in below if r.marker is None or r.marker.evaluate({"extra": extra})]
    return {canonicalize_name(name) for name, _ in seen}
