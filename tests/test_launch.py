"""rlft.launch chooses the configuration that fits the machine, and starts scripts with the real accelerate."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlft.launch import Plan, config_file, main, make_plan

ROOT = Path(__file__).parents[1]


def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: int, visible: str | None = None) -> None:
    """Make `nvidia-smi` list that many GPUs, and CUDA_VISIBLE_DEVICES allow some of them."""
    lines = "".join(f"echo 'GPU {i}: H'; echo '  MIG 1g.5gb Device 0'\n" for i in range(gpus))
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{lines or 'exit 9'}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def plan_for(argv: str, gpus: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str | None = None) -> Plan:
    machine(monkeypatch, tmp_path, gpus, visible)
    return make_plan(argv.split())


@pytest.mark.parametrize(
    ("argv", "gpus", "visible", "config", "processes"),
    [
        ("recipes/shear.py", 0, None, "cpu", None),
        ("recipes/shear.py", 1, None, "single_gpu", None),
        ("recipes/shear.py", 4, None, "multi_gpu", 4),
        ("recipes/shear.py", 4, "1,3", "multi_gpu", 2),
        ("recipes/shear.py", 4, "2", "single_gpu", None),
        ("recipes/shear.py", 4, "", "cpu", None),
        ("recipes/shear.py", 4, "-1", "cpu", None),
        ("--num_processes 2 recipes/shear.py", 0, None, "multi_cpu", 2),
        ("--num-processes=1 recipes/shear.py", 4, None, "single_gpu", 1),
        ("--accelerate_config fsdp2 recipes/shear.py", 8, None, "fsdp2", 8),
        ("recipes/shear.py --accelerate_config=zero3", 8, "0,1", "zero3", 2),
        ("--accelerate_config cpu --num_processes 3 recipes/shear.py", 2, None, "multi_cpu", 3),
        ("--accelerate_config multi_cpu recipes/shear.py", 0, None, "multi_cpu", None),
        ("--accelerate_config fsdp2 --num_processes 16 recipes/shear.py", 0, None, "fsdp2", 16),
    ],
)
def test_configuration_fits_the_machine(
    argv: str,
    gpus: int,
    visible: str | None,
    config: str,
    processes: int | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    plan = plan_for(argv, gpus, monkeypatch, tmp_path, visible)
    assert (plan.config, plan.processes) == (config, processes)
    assert config_file(plan.config) == ROOT / "recipes/accelerate" / f"{config}.yaml"


def test_one_gpu_of_several_hides_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    argv = "recipes/shear.py --accelerate_config single_gpu"
    assert plan_for(argv, 4, monkeypatch, tmp_path).environment == {"CUDA_VISIBLE_DEVICES": "0"}
    assert plan_for(argv, 4, monkeypatch, tmp_path, "3,1").environment == {"CUDA_VISIBLE_DEVICES": "3"}


def test_cpu_threads_are_the_users_or_shared_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    argv = "--num_processes 2 recipes/shear.py"
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS")
    shared = plan_for(argv, 0, monkeypatch, tmp_path).environment
    assert shared == {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "4"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert plan_for(argv, 0, monkeypatch, tmp_path).environment["OMP_NUM_THREADS"] == "3"


def test_flags_go_to_the_side_of_the_script_they_stand_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    argv = "--main_process_port 0 recipes/shear.py --num_processes 5 --lr -1 x --accelerate_config cpu -- y"
    command = plan_for(argv, 0, monkeypatch, tmp_path).command()
    at = next(i for i, word in enumerate(command) if word.endswith("shear.py"))
    assert command[2:at] == ["--main_process_port", "0"]
    assert command[at + 1 :] == ["--num_processes", "5", "--lr", "-1", "x", "--", "y"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            "recipes/shear.py --accelerate_config fsdp3",
            "'fsdp3' is neither a file nor .* cpu, fsdp2, multi_cpu, multi_gpu",
        ),
        ("--accelerate_config zero2 recipes/shear.py", "zero2 needs GPUs and nvidia-smi shows none"),
        ("recipes/sheer.py", "no script 'recipes/sheer.py' in .*rlft recipes"),
        ("--num_processes 2", "no script among the arguments"),
    ],
)
def test_what_cannot_be_launched_is_refused(
    argv: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, tmp_path, gpus=0)
    with pytest.raises(SystemExit, match=message):
        main(argv.split())


def start(tmp_path: Path, script: str, *flags: str) -> "subprocess.Popen[str]":
    (tmp_path / "script.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "rlft.launch", *flags, "--accelerate_config", "cpu", str(tmp_path / "script.py")]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_the_scripts_exit_code_and_words_are_all_there_is(tmp_path: Path) -> None:
    process = start(tmp_path, "import sys; sys.exit(7)")
    assert process.communicate() == ("", "")
    assert process.returncode == 7


def test_a_signal_to_the_launcher_reaches_the_script(tmp_path: Path) -> None:
    process = start(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    assert process.stdout is not None
    assert int(process.stdout.readline()) == process.pid
    process.terminate()
    assert process.wait(timeout=30) == -signal.SIGTERM
    process.communicate()


def test_several_processes_on_cpu_find_each_other(tmp_path: Path) -> None:
    script = (
        "import accelerate\n"
        "state = accelerate.Accelerator()\n"
        "total = accelerate.utils.gather_object([state.process_index])\n"
        "state.print(state.device.type, state.num_processes, total)\n"
        "state.end_training()\n"  # a process group left open can abort a process as it exits
    )
    process = start(tmp_path, script, "--num_processes", "2", "--main_process_port", "0")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "cpu 2 [0, 1]" in output
