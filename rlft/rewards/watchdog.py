"""End a call that hangs: the deadline behind `checked`.

A thread waits beside the call and, when the deadline passes, sends SIGINT to the main thread. Unlike a flag, a
signal also breaks a blocking sleep, lock or read. SIGALRM is left alone because math-verify uses it.
"""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
_RETRY_SECONDS = 1.0


class DeadlineExpired(BaseException):
    """The deadline passed. Not an `Exception`, so that `except Exception: return 0.0` cannot swallow it."""


class _Watchdog:
    def __init__(self, seconds: float, previous: Any) -> None:
        self.expired = False
        self._seconds = seconds
        self._previous = previous
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._in_flight = False  # our signal was sent and its handler has not run yet

    def watch(self) -> None:
        """Thread body: wait, then signal until the call ends (it may have swallowed the first one)."""
        wait = self._seconds
        while not self._done.wait(wait):
            with self._lock:
                if not self._done.is_set() and not self._in_flight:
                    self.expired = self._in_flight = True
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            wait = _RETRY_SECONDS

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """SIGINT handler: ours ends the call, a real Ctrl-C goes where it would have gone."""
        if self._in_flight:
            self._in_flight = False
            if not self._done.is_set():
                raise DeadlineExpired
        elif callable(self._previous):
            self._previous(number, frame)
        elif self._previous != signal.SIG_IGN:
            signal.default_int_handler(number, frame)

    def disarm(self) -> None:
        """Send no more signals, and let one that is under way arrive while it can still be told from Ctrl-C."""
        self._done.set()
        with self._lock:
            pass
        while self._in_flight:
            time.sleep(0.001)


def call_within(seconds: float, call: Callable[[], T]) -> T:
    """Run `call` on the main thread and end it at the deadline.

    Off the main thread Python cannot interrupt a call, so it runs without a deadline there. A call that sits in C
    code without looking at signals ends only when it comes back from it.

    Args:
        seconds: The deadline, wall time.
        call: What to run.

    Returns:
        What `call` returns.

    Raises:
        DeadlineExpired: if the deadline passed, even where `call` swallowed the interruption.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    previous = signal.getsignal(signal.SIGINT)
    dog = _Watchdog(seconds, previous)
    signal.signal(signal.SIGINT, dog.on_signal)
    try:
        threading.Thread(target=dog.watch, name="reward-deadline", daemon=True).start()
        try:
            result = call()
        finally:
            dog.disarm()
    finally:
        # A second time: the signal may have arrived between the end of the call and the first one.
        dog.disarm()
        signal.signal(signal.SIGINT, previous if previous is not None else signal.default_int_handler)
    if dog.expired:
        raise DeadlineExpired
    return result
