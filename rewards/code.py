"""Python solutions run against tests, each in a child process with limits. A plain TRL reward function.

NOT A SECURITY BOUNDARY. The limits keep a bad sample from taking the training run with it. They do not keep hostile
code in: it runs as your user, with the network, and can read your files. Use it where that does no harm, in a
container or a virtual machine made for it.
"""

import ast
import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_MB = 2**20
_FILE_MB = 16
_FILES = 64
_READY = b"ready\n"
_BLOCK = re.compile(r"```(?:python|py)[ \t]*\n(.*?)```", re.DOTALL)

# The child's own program. It sets its limits itself: Python code between fork and exec (preexec_fn) can deadlock
# beside torch's threads. Its stdout is kept as the channel of the verdict, and the solution gets /dev/null. What Python
# reports to an audit hook is refused where it reaches beyond the folder: it keeps accidents in, not an attacker who
# calls the C library.
_HARNESS = """
import json, os, re, resource, sys

BEYOND = re.compile(
    r"os\\.(fork|forkpty|posix_spawn|exec|system|kill|killpg)$|subprocess\\.Popen$"  # NPROC does not bind root
    r"|socket\\.(connect|bind|getaddrinfo|gethostby|sendto|sendmsg)"
)
CHANGING = re.compile(r"os\\.(remove|rename|rmdir|mkdir|link|symlink|truncate|chmod|chown|utime|setxattr)$")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

def main():
    job = json.load(sys.stdin)
    channel, null = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for name, value in job["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    folder, foreign = os.getcwd(), re.compile(rf"/proc/(?!{os.getpid()}(/|$))[0-9]+")
    files = job["files"]
    def place(path):
        return os.path.realpath(f"/proc/self/fd/{path}" if isinstance(path, int) else os.fsdecode(path))
    def outside(path):
        return place(path) not in (folder, os.devnull) and not place(path).startswith(folder + os.sep)
    def changed(event, args):  # paths, and the folders that they are relative to, -1 for the working directory
        if event in ("os.rename", "os.link"):
            return [*args[:2], *(fd for fd in args[2:4] if fd != -1)]
        relative = args[-1:] if event not in ("os.truncate", "os.setxattr") else ()
        return [args[1] if event == "os.symlink" else args[0], *(fd for fd in relative if fd != -1)]
    def hook(event, args):
        nonlocal files
        if BEYOND.match(event) or CHANGING.match(event) and any(map(outside, changed(event, args))):
            raise PermissionError(event)
        if event == "open" and not isinstance(args[0], int):
            writes = bool(args[2] & WRITING)
            files -= writes
            if foreign.match(place(args[0])) or writes and (files < 0 or outside(args[0])):
                raise PermissionError(args[0])
    sys.addaudithook(hook)
    bytes(32 * 2**20)  # a memory limit too low for anything to run must not look like a wrong solution
    os.write(channel, b"ready\\n")
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    names = {"__name__": "solution"}
    exec(compile(job["solution"], "solution", "exec"), names)
    exec(compile(job["tests"], "tests", "exec"), names)
    os.write(channel, job["secret"].encode())
    os._exit(0)

main()
"""


def code(
    completions: list[Any],
    answer: list[str],
    cpu_seconds: int = 5,
    wall_seconds: float = 10.0,
    memory_mb: int = 1024,
    **kwargs: Any,
) -> list[float]:
    """Score 1.0 where the solution passes its tests, else 0.0.

    The solution is the last ```python block of the completion, or the whole text if there is none. It runs with the
    tests in `python -I`, in an empty temporary folder, without your environment. It may start no process, open no
    connection, and change nothing outside that folder. A sample passes only if the end of the tests is reached, so
    `exit(0)` earns nothing.

    Args:
        completions: B strings or message lists.
        answer: B sources of tests (`assert` statements) that see the solution's names.
        cpu_seconds: Limit on processor time.
        wall_seconds: Limit on elapsed time, after which the whole process group is killed.
        memory_mb: Limit on address space.
        **kwargs: What else TRL passes; unused.

    Returns:
        B scores, 1.0 or 0.0.

    Raises:
        ValueError: if a test source is empty or is no Python, since it would pass or fail whatever the solution.
        RuntimeError: if the child process cannot start; that is never scored.
    """
    for i, tests in enumerate(answer):
        _require_tests(i, tests)
    limits = {
        "RLIMIT_CPU": cpu_seconds,
        "RLIMIT_AS": memory_mb * _MB,
        "RLIMIT_FSIZE": _FILE_MB * _MB,
        "RLIMIT_NPROC": 0,
        "RLIMIT_CORE": 0,
    }
    jobs = [
        {"solution": _solution(_text(completion)), "tests": tests, "limits": limits, "files": _FILES}
        for completion, tests in zip(completions, answer, strict=True)
    ]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
        return list(threads.map(lambda job: float(_passes(job, wall_seconds)), jobs))


def _passes(job: dict[str, Any], wall_seconds: float) -> bool:
    """Run one job; True if the harness reached the end of the tests."""
    secret = secrets.token_hex(16)  # what the solution would have to write to claim that
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, tempfile.TemporaryFile() as request:
        request.write(json.dumps({**job, "secret": secret}).encode())
        request.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-IB", "-c", _HARNESS],
            stdin=request,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # numpy may start no threads here
            start_new_session=True,
        )
        with child:
            try:
                child.wait(wall_seconds)
            except subprocess.TimeoutExpired:
                pass  # no verdict on the channel: the sample fails below
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
            said, complaint = _available(child.stdout), _available(child.stderr)
    if not said.startswith(_READY):
        raise RuntimeError(
            f"code: the child process could not start (exit code {child.returncode}, limit {wall_seconds:g} s): "
            f"{complaint.decode(errors='replace') or 'no message'}. Raise wall_seconds or memory_mb."
        )
    return said == _READY + secret.encode()


def _available(pipe: Any) -> bytes:
    """What lies in the pipe now. A process that escaped the group may hold it open, so never wait for its end."""
    os.set_blocking(pipe.fileno(), False)
    return bytes(pipe.read(4096) or b"")


def _require_tests(i: int, tests: Any) -> None:
    try:
        empty = not ast.parse(tests).body
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"code: row {i} of the batch has an 'answer' that is no Python: {tests!r:.120}") from error
    if empty:
        raise ValueError(f"code: row {i} of the batch has an empty 'answer', which any solution would pass.")


def _solution(text: str) -> str:
    blocks = _BLOCK.findall(text)
    return str(blocks[-1]) if blocks else text


def _text(completion: Any) -> str:
    """The completion, or the content of its last assistant message; "" where that only calls a tool."""
    if isinstance(completion, str):
        return completion
    contents = [message.get("content") for message in completion if message.get("role") == "assistant"]
    content = (contents or [""])[-1] or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
