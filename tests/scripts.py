"""Scripts as a user starts them, in processes forked from one that has imported the libraries, but nothing of rlft.

The imports of torch, transformers and TRL take five seconds in a new interpreter, longer than most of what is tested.
"""

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
BEHIND = 30.0
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "accelerate",
        "bm25s",
        "datasets",
        "datasketch",
        "matplotlib.backends.backend_agg",
        "matplotlib.figure",
        "pebble",
        "peft",
        "pytest",
        "scipy.optimize",
        "scipy.stats",
        "transformers.models.auto.modeling_auto",
        "transformers.models.qwen3.modeling_qwen3",
        "trl.scripts.utils",
        "trl.trainer.grpo_trainer",
        "trl.trainer.reward_trainer",
        "trl.trainer.sft_trainer",
    ]
)


def run(
    script: str | Path,
    *flags: str,
    cwd: Path = ROOT,
    processes: int = 1,
    environment: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> "subprocess.CompletedProcess[str]":
    """Run a script to its end.

    Args:
        script: file, run as `__main__`.
        flags: what follows it on the command line.
        cwd: folder that it is started in.
        processes: how many run it, as under torchrun.
        environment: variables besides those of this process.
        timeout: seconds after which it is killed.

    Returns:
        Exit code, the first that is not 0 if there is one, and what all processes printed.
    """
    with TemporaryDirectory() as folder:
        out, err = (Path(folder) / name for name in ("out", "err"))
        begun = begin(script, *flags, cwd=cwd, processes=processes, environment=environment, out=out, err=err)
        code = wait(begun, timeout)
        return subprocess.CompletedProcess([str(script), *flags], code, out.read_text(), err.read_text())


def smoke(recipe: str | Path, folder: Path, *flags: str) -> tuple[Path, str]:
    """The folder of a recipe's smoke, and what it printed."""
    finished = run(recipe, "--smoke", "--output_dir", str(folder), *flags)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return folder, finished.stdout


def loaded_lora(folder: Path, printed: str) -> int:
    """Run the lines that a run printed to load its adapter, where rlft cannot be imported; count what it adds."""
    lines = "\n".join(printed.partition("Load it:\n")[2].splitlines()[:3])
    code = f"import sys; sys.modules['rlft'] = None\n{lines}\n"
    with TemporaryDirectory() as elsewhere:
        script = Path(elsewhere) / "load.py"
        script.write_text(f"{code}print(sum('lora' in name for name, _ in model.named_parameters()))")
        finished = run(script, cwd=folder)
    assert finished.returncode == 0, finished.stderr[-2000:]
    return int(finished.stdout.split()[-1])


def run_afresh(script: str | Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    """Run a script in an interpreter of its own, where it imports everything in its own order."""
    command = [sys.executable, str(script), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def begin(
    script: str | Path,
    *flags: str,
    cwd: Path = ROOT,
    processes: int = 1,
    environment: Mapping[str, str] | None = None,
    out: str | Path = os.devnull,
    err: str | Path = os.devnull,
) -> list[BaseProcess]:
    """Start a script; arguments as for `run`, and the files that its output is written to."""
    variables = dict(os.environ) | {"PYTHONPATH": str(ROOT)} | (environment or {})
    places = _places(processes) if processes > 1 else [{}]
    begun = [fork(_work, str(script), flags, str(cwd), variables | place, str(out), str(err)) for place in places]
    for process in begun:
        process.start()
    return begun


def wait(begun: Sequence[BaseProcess], timeout: float = 300) -> int:
    """Exit code of processes; when one fails the others are killed, which would wait for it for ever.

    Gloo hangs now and then as a process takes its group down, with all its work done. One that is still there `BEHIND`
    seconds after another ended well is killed, and does not count.
    """
    deadline, behind, failed = time.monotonic() + timeout, float("inf"), 0
    while running := [process for process in begun if process.is_alive()]:
        failed = failed or next((process.exitcode for process in begun if process.exitcode), 0)
        if len(running) < len(begun):
            behind = min(behind, time.monotonic() + BEHIND)
        if time.monotonic() > behind and not failed:
            return _killed(running)
        if failed or time.monotonic() > deadline:
            _killed(running)
        time.sleep(0.01)
    return failed or next((process.exitcode for process in begun if process.exitcode), 0)


def fork(task: Callable[..., None], *args: Any) -> BaseProcess:
    """A process, not yet started, that does a task where the libraries are imported."""
    return SERVER.Process(target=_frozen, args=(task, *args))


def _frozen(task: Callable[..., None], *args: Any) -> None:
    gc.freeze()  # or every collection walks the heap of torch and transformers, and copies it
    task(*args)


def _killed(processes: Sequence[BaseProcess]) -> int:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    return 0


def _places(processes: int) -> list[dict[str, str]]:
    """What torchrun tells the processes, whose store the process that starts them keeps, on a port nobody else has."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    _STORES.append(store)
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": store.port,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "TORCHELASTIC_RESTART_COUNT": 0,
    }
    places = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(processes)]
    return [{name: str(value) for name, value in place.items()} for place in places]


_STORES: list[torch.distributed.TCPStore] = []


def _work(script: str, flags: Sequence[str], cwd: str, environment: Mapping[str, str], out: str, err: str) -> None:
    for descriptor, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [script, *flags]
    sys.path.insert(0, str(Path(script).parent))
    try:
        runpy.run_path(script, run_name="__main__")
    except Exception:
        sys.excepthook(*sys.exc_info())
        raise SystemExit(1) from None
