"""Run a script through `accelerate launch` with the shipped configuration that fits this machine.

`./launch.sh SCRIPT.py` comes here, and so does `python -m rlft.launch SCRIPT.py` where rlft was installed by pip. Flags
before the script are accelerate's, flags after it the script's; `--accelerate_config` is read in either place.

Accelerate itself starts a single process as a child, turns its exit status into 1 with a traceback of its own, and
leaves it running when the launcher is terminated. Here the script takes the launcher's place, so that its exit status
is the launcher's and a signal to the launcher reaches it. Several processes start as accelerate starts them.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlft.assets import shipped

_ON_CPU = ("cpu", "multi_cpu")


@dataclass(frozen=True)
class Plan:
    """What to launch, and how."""

    script: Path
    script_args: list[str]
    config: str
    """Name of a shipped configuration, or a file of the user's."""
    processes: int | None
    """None leaves the number to the configuration."""
    accelerate_args: list[str]
    environment: dict[str, str]

    def command(self) -> list[str]:
        """Arguments of `accelerate launch`."""
        processes = [] if self.processes is None else ["--num_processes", str(self.processes)]
        options = ["--config_file", str(config_file(self.config)), *processes, *self.accelerate_args]
        return [*options, str(self.script), *self.script_args]


def make_plan(argv: Sequence[str]) -> Plan:
    """Read the command line and look at the machine.

    Args:
        argv: `[accelerate flags] SCRIPT.py [script flags]`.

    Returns:
        The plan; nothing is imported or started yet.

    Raises:
        ValueError: no script, a configuration that is not there, or one for GPUs where none is visible.
        FileNotFoundError: the script is neither in the working directory nor among the recipes.
    """
    at = next((i for i, word in enumerate(argv) if word.endswith(".py")), None)
    if at is None:
        raise ValueError(f"no script among the arguments {list(argv)}; name one that ends in .py: recipes/shear.py")
    parser = argparse.ArgumentParser(prog="launch", add_help=False, allow_abbrev=False)
    parser.add_argument("--accelerate_config", default="")
    options, script_args = parser.parse_known_args(argv[at + 1 :])
    parser.add_argument("--num_processes", "--num-processes", type=int)
    options, accelerate_args = parser.parse_known_args(argv[:at], options)
    config, processes = _choose(options.accelerate_config, options.num_processes, _visible_gpus())
    environment = _environment(config, processes or 1)
    return Plan(_find_script(argv[at]), script_args, config, processes, accelerate_args, environment)


def config_file(name: str) -> Path:
    """File of an accelerate configuration: a shipped one by name, else the user's own by path."""
    folder = shipped("recipes") / "accelerate"
    for file in (folder / f"{name}.yaml", Path(name)):
        if file.is_file():
            return file
    names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
    raise ValueError(f"--accelerate_config {name!r} is neither a file nor one of the shipped ones: {names}")


def _find_script(name: str) -> Path:
    for file in (Path(name), shipped("recipes").parent / name):
        if file.is_file():
            return file
    raise FileNotFoundError(f"no script {name!r} in {Path.cwd()} or beside rlft; `rlft recipes` lists what there is")


def _visible_gpus() -> int:
    """NVIDIA GPUs that a process started now would see, counted without importing torch."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False).stdout
    count = sum(line.startswith("GPU ") for line in listed.splitlines())
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return count
    return min(count, sum(device.strip() not in ("", "-1") for device in allowed.split(",")))


def _choose(config: str, processes: int | None, gpus: int) -> tuple[str, int | None]:
    if not config:
        config = "cpu" if gpus == 0 else "single_gpu" if (processes or gpus) == 1 else "multi_gpu"
    if config == "cpu" and (processes or 1) > 1:
        config = "multi_cpu"
    spreads = config in ("multi_gpu", "fsdp2", "zero2", "zero3")
    if spreads and not (processes or gpus):
        raise ValueError(
            f"--accelerate_config {config} needs GPUs and nvidia-smi shows none that CUDA_VISIBLE_DEVICES allows; "
            "take cpu, or say how many there are with --num_processes N before the script"
        )
    return config, processes or gpus if spreads else processes


def _environment(config: str, processes: int) -> dict[str, str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if config in _ON_CPU:
        threads = max(1, (os.cpu_count() or 1) // processes)
        environment = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
        return environment | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(threads)}
    if config == "single_gpu":
        # A process that sees several GPUs would split its batches over them.
        return {"CUDA_VISIBLE_DEVICES": "0" if visible is None else visible.split(",")[0]}
    return {}


def _become_script(args: argparse.Namespace) -> None:
    from accelerate.commands.launch import prepare_simple_launcher_cmd_env

    command, environment = prepare_simple_launcher_cmd_env(args)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe(command[0], command, environment)


def main(argv: Sequence[str] | None = None) -> None:
    """Launch what `argv` (default: this process's arguments) asks for; does not return for a single process."""
    try:
        plan = make_plan(sys.argv[1:] if argv is None else argv)
        command = plan.command()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"launch: {error}")
    if {"-h", "--help"} & set(plan.script_args):
        os.execv(sys.executable, [sys.executable, str(plan.script), *plan.script_args])
    from accelerate.commands import launch

    os.environ.update(plan.environment)
    launch.simple_launcher = _become_script
    sys.argv = ["accelerate launch", *command]
    launch.main()


if __name__ == "__main__":
    main()
