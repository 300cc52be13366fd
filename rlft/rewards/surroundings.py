"""What a reward function may turn over without touching training: its arguments, and the state of the process.

Training and rewards share one process. A reward that seeds `random`, changes directory or switches gradients off would
change, silently, what is learnt: all this is put back after every call. It draws from random streams of its own,
seeded by the completions that it scores, so neither its draws nor its seeds move the sampling of the policy, and a run
that goes on scores as it would have scored.
"""

import copy
import os
import random
import signal
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

_inside = 0
"""Calls under way: `async` rewards overlap, and the first to begin sees the state that the last to end restores."""
_restore: list[Callable[[], Any]] = []


def own_copy(value: Any) -> Any:
    """`value` with lists, dicts and tuples made anew, however deep, so that changing them changes nothing else.

    Each stays of its kind: a defaultdict has its default, a named tuple its names.
    """
    if isinstance(value, dict):
        made: Any = copy.copy(value)
        for key, item in value.items():
            made[key] = own_copy(item)
        return made
    if isinstance(value, list):
        made = copy.copy(value)
        if _nested(value):
            made[:] = map(own_copy, value)
        return made
    if isinstance(value, tuple) and _nested(value):
        return getattr(type(value), "_make", type(value))(map(own_copy, value))
    return value


def _nested(values: Sequence[Any]) -> bool:
    """Whether containers are among the values: token ids, of which there are most, are copied as one."""
    return any(issubclass(kind, list | dict | tuple) for kind in set(map(type, values)))


@contextmanager
def surroundings_kept(name: str, completions: Sequence[Any]) -> Iterator[None]:
    """Put back, at the end, what the code inside may have changed of the process.

    That is: the states of `random`, numpy and torch; the working directory; torch's gradient mode, default dtype and
    threads; the warning filters; on the main thread, signal handlers and a pending alarm. A copy of the process that
    the code has forked ends here, since it would train on beside the run.

    Args:
        name: of the reward.
        completions: a batch; random streams are seeded by the name and the text.
    """
    global _inside, _restore
    process = os.getpid()
    if not _inside:
        _restore = [*_randomness(), *_torch_modes(), *_signals(), *_place()]
        _seed(zlib.crc32(repr((name, completions)).encode(errors="surrogatepass")))
    _inside += 1
    try:
        yield
    finally:
        if os.getpid() != process:
            os._exit(1)
        _inside -= 1
        if not _inside:
            for restore in _restore:
                restore()


def _randomness() -> Iterator[Callable[[], Any]]:
    yield partial(random.setstate, random.getstate())
    if numpy := sys.modules.get("numpy"):
        yield partial(numpy.random.set_state, numpy.random.get_state())
    if torch := sys.modules.get("torch"):
        yield partial(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_initialized():
            yield partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())


def _seed(seed: int) -> None:
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(seed)


def _torch_modes() -> Iterator[Callable[[], Any]]:
    if torch := sys.modules.get("torch"):
        yield partial(torch.set_grad_enabled, torch.is_grad_enabled())
        yield partial(torch.set_default_dtype, torch.get_default_dtype())
        yield partial(torch.set_num_threads, torch.get_num_threads())


def _signals() -> Iterator[Callable[[], Any]]:
    if threading.current_thread() is threading.main_thread():
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if handler is not None:  # None was installed by other means than Python, which cannot put it back
                yield partial(_handle, number, handler)
        yield partial(signal.setitimer, signal.ITIMER_REAL, *signal.getitimer(signal.ITIMER_REAL))


def _handle(number: int, handler: Any) -> None:
    if signal.getsignal(number) != handler:
        signal.signal(number, handler)


def _place() -> Iterator[Callable[[], Any]]:
    yield partial(os.chdir, os.getcwd())
    yield partial(_filter, warnings.filters[:])


def _filter(filters: Sequence[Any]) -> None:
    if warnings.filters != filters:
        warnings.resetwarnings()  # tells every module to forget which warnings it has shown under the other filters
        warnings.filters[:] = filters  # type: ignore[index]
