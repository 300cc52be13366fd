"""launch.sh makes the environment once, safely, and starts the right thing.

Tested in a copy of it in a folder with a space in its name, against a fake `python3` that logs its arguments instead
of installing.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAKE_PYTHON = r"""#!/usr/bin/env bash
printf '%s\n' "$*" >>"$FAKE_LOG"
case "$*" in
  *version_info*) echo "${FAKE_VERSION:-3.11}" ;;
  '-m venv '*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *--no-index*) exit "${FAKE_NO_LOCAL_TORCH:-0}" ;;
  *--index-url*) exit "${FAKE_NO_CPU_INDEX:-0}" ;;
  '-m pip install '*) [ -z "${FAKE_SECONDS-}" ] || exec sleep "$FAKE_SECONDS"; exit "${FAKE_PIP_EXIT:-0}" ;;
  '-m pip --version') ;;
  '-c import accelerate'*) exit "${FAKE_IMPORT_EXIT:-0}" ;;
  *) printf '<%s>\n' "$@"; pwd; exit "${FAKE_EXIT:-0}" ;;
esac
"""
FAKE_UV = r"""#!/usr/bin/env bash
printf 'uv %s links=%s\n' "$*" "${UV_FIND_LINKS-}" >>"$FAKE_LOG"
[ "$1" != venv ] || { mkdir -p "${@: -1}/bin" && cp "$(command -v python3)" "${@: -1}/bin/python"; }
exit "${FAKE_UV_EXIT:-0}"
"""

Launch = Callable[..., subprocess.CompletedProcess[str]]


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout without `.venv`, beside fakes of python3 and of a Linux without GPU."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("launch.sh", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    program(tmp_path / "bin", "python3", FAKE_PYTHON)
    program(tmp_path / "bin", "uname", "#!/bin/sh\necho Linux\n")
    program(tmp_path / "bin", "nvidia-smi", "#!/bin/sh\nexit 9\n")
    return folder


@pytest.fixture
def launch(clone: Path) -> Launch:
    def run(*arguments: str, cwd: Path = clone, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [clone / "launch.sh", *arguments],
            cwd=cwd,
            env=fake_environment(clone) | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def fake_environment(clone: Path) -> dict[str, str]:
    log = clone.parent / "log"
    log.touch()
    return {"PATH": f"{clone.parent / 'bin'}:/usr/bin:/bin", "HOME": str(clone.parent), "FAKE_LOG": str(log)}


def installs(clone: Path) -> list[str]:
    """What was asked of pip or uv, in order."""
    return [line for line in (clone.parent / "log").read_text().splitlines() if "pip install" in line]


def test_help_makes_nothing(clone: Path, launch: Launch) -> None:
    for arguments in (["--help"], ["-h"], []):
        done = launch(*arguments)
        assert done.returncode == 0
        assert "./launch.sh test" in done.stdout
    assert not (clone / ".venv").exists()
    assert (clone.parent / "log").read_text() == ""


def test_first_use_sets_up_and_later_uses_do_not(clone: Path, launch: Launch) -> None:
    first = launch("test", "-k", "a b")
    assert first.stdout.splitlines() == ["<-m>", "<pytest>", "<-k>", "<a b>", str(clone)]
    assert [line.split()[-1] for line in installs(clone)] == ["torch==2.13.0", ".[test]"]
    assert "-c constraints.txt -e .[test]" in installs(clone)[-1]
    later = launch("rlft", "recipes")
    assert later.stdout.splitlines()[:-1] == ["<-P>", "<-m>", "<rlft>", "<recipes>"]
    assert later.stderr == ""
    assert len(installs(clone)) == 2


def test_tests_without_flags_run_on_several_cores_a_file_on_one(launch: Launch) -> None:
    words = [word.strip("<>") for word in launch("test").stdout.splitlines()[:-1]]
    options = dict(zip(words[2:8:2], words[3:9:2], strict=True))
    assert words[:2] == ["-m", "pytest"]
    assert options == {"-n": "logical", "--maxprocesses": "4", "--dist": "loadfile"}
    assert words[8:] == ["--no-loadscope-reorder"]


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_changed_versions_install_again(clone: Path, launch: Launch, name: str) -> None:
    launch("setup")
    before = len(installs(clone))
    (clone / name).write_text((clone / name).read_text() + "\n# changed\n")
    launch("setup")
    assert len(installs(clone)) == 2 * before


def test_a_moved_environment_is_installed_again(clone: Path, launch: Launch) -> None:
    launch("setup")
    moved = clone.rename(clone.parent / "moved here")
    before = len(installs(clone))
    subprocess.run([moved / "launch.sh", "setup"], env=fake_environment(clone), check=True, capture_output=True)
    assert len(installs(clone)) == 2 * before


@pytest.mark.parametrize("what", ["FAKE_PIP_EXIT", "FAKE_IMPORT_EXIT"])
def test_failed_set_up_says_so_and_starts_afresh(clone: Path, launch: Launch, what: str) -> None:
    failed = launch("setup", **{what: "1"})
    assert failed.returncode == 2
    assert "set-up failed" in failed.stderr
    (clone / ".venv/half-copied").touch()
    again = launch("setup")
    assert again.returncode == 0
    assert "did not finish" in again.stderr
    assert not (clone / ".venv/half-copied").exists()


def test_terminated_set_up_ends_its_installer_and_frees_the_lock(clone: Path, launch: Launch) -> None:
    environment = fake_environment(clone) | {"FAKE_SECONDS": "60"}
    process = subprocess.Popen([clone / "launch.sh", "setup"], env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "packages of constraints.txt" not in process.stderr.readline():
        assert process.poll() is None
    assert (clone / ".venv.lock").is_symlink()
    process.terminate()
    process.communicate(timeout=30)  # ends when the installer, which holds the pipe too, is gone
    assert process.returncode != 0
    assert not (clone / ".venv.lock").is_symlink()
    assert "did not finish" in launch("setup").stderr


def test_first_uses_at_once_set_up_once(clone: Path) -> None:
    environment = fake_environment(clone) | {"FAKE_SECONDS": "2"}
    both = [
        subprocess.Popen([clone / "launch.sh", "python", "x"], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [process.communicate()[0].split(b"\n")[0] for process in both] == [b"<x>", b"<x>"]
    assert len([line for line in installs(clone) if "-e" in line.split()]) == 1


def test_a_dead_owners_lock_is_taken_over(clone: Path, launch: Launch) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    (clone / ".venv.lock").symlink_to(str(dead.pid))
    assert launch("setup").returncode == 0


def test_somebodys_own_environment_is_kept(clone: Path, launch: Launch) -> None:
    (clone / ".venv").mkdir()
    (clone / ".venv/theirs").touch()
    assert launch("setup", FAKE_PIP_EXIT="1").returncode == 2
    assert launch("setup").returncode == 0
    assert (clone / ".venv/theirs").exists()


def test_too_old_a_python_is_named_with_its_version(clone: Path, launch: Launch) -> None:
    old = launch("setup", FAKE_VERSION="3.10", PYTHON=str(clone.parent / "bin/python3"))
    assert old.returncode == 2
    assert "Python 3.11 or newer" in old.stderr
    assert "bin/python3 (3.10)" in old.stderr


def test_torch_comes_from_the_default_index_where_nothing_else_has_it(clone: Path, launch: Launch) -> None:
    done = launch("setup", FAKE_NO_LOCAL_TORCH="1", FAKE_NO_CPU_INDEX="1")
    assert done.returncode == 0
    local, cpu_index, packages = installs(clone)
    assert "--no-index" in local
    assert "--index-url https://download.pytorch.org/whl/cpu" in cpu_index
    assert "index-url" not in packages
    assert "did not serve it" in done.stderr


def test_a_gpu_gets_the_default_torch(clone: Path, launch: Launch) -> None:
    program(clone.parent / "bin", "nvidia-smi", "#!/bin/sh\necho 'GPU 0: H'\n")
    launch("setup")
    assert len(installs(clone)) == 1


def test_uv_is_preferred_and_hears_pips_settings(clone: Path, launch: Launch) -> None:
    program(clone.parent / "bin", "uv", FAKE_UV)
    assert launch("setup", PIP_FIND_LINKS="/wheels /more").returncode == 0
    assert all(line.startswith("uv pip install") and line.endswith("links=/wheels,/more") for line in installs(clone))


def test_pip_steps_in_where_uv_fails(clone: Path, launch: Launch) -> None:
    program(clone.parent / "bin", "uv", FAKE_UV)
    done = launch("setup", FAKE_UV_EXIT="1")
    assert done.returncode == 0
    assert "uv could not do it" in done.stderr
    assert not installs(clone)[-1].startswith("uv")


def test_scripts_keep_arguments_folder_and_exit_code(clone: Path, tmp_path: Path, launch: Launch) -> None:
    done = launch("some/run.py", "--flag", "a b", "", cwd=tmp_path, FAKE_EXIT="7")
    words = ["-P", "-m", "rlft.launch", "some/run.py", "--flag", "a b", ""]
    assert done.stdout.splitlines() == [*(f"<{word}>" for word in words), str(tmp_path)]
    assert done.returncode == 7


def test_an_unknown_word_is_refused_before_any_set_up(clone: Path, launch: Launch) -> None:
    done = launch("tset")
    assert done.returncode == 2
    assert "'tset' names no command and no script" in done.stderr
    assert not (clone / ".venv").exists()
