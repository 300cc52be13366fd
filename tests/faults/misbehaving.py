"""Functions of one sample that misbehave as the completion says. Children of `per_sample` load this file."""

import os
import sys
import threading
import time
from typing import Any

_calls = 0


def subject(completion: str) -> Any:
    """Ends as it is told to."""
    global _calls
    _calls += 1
    found = {
        "calls": lambda: float(_calls),
        "text number": lambda: "1.0",
        "huge int": lambda: 10**5000,
        "generator": lambda: (score for score in [1.0]),
        "unpicklable": lambda: lambda: 0,
        "recursion": lambda: subject(completion),
        "import": lambda: __import__("no_such_module"),
        "interrupt": interrupt,
        "memory": lambda: float(len(bytearray(2**35))),
        "flood": flood,
        "directory": lambda: os.chdir("/") or 1.0,
        "thread": leave_a_thread,
        "fork": fork,
        "fork and die": fork_and_die,
        "closed output": lambda: os.close(1) or 1.0,
        "kill": lambda: os.kill(os.getpid(), 9),
        "sleep": lambda: time.sleep(60),
    }
    return found[completion]()


def interrupt() -> None:
    raise KeyboardInterrupt


def flood() -> float:
    for _ in range(1000):
        print("x" * 1000, file=sys.stderr)
    return 1.0


def leave_a_thread() -> float:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return 1.0


def fork() -> float:
    """Parent and copy both return."""
    if pid := os.fork():
        os.waitpid(pid, 0)
    return 1.0


def fork_and_die() -> float:
    pid = os.fork()
    if not pid:
        os._exit(3)
    return float(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
