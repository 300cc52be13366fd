"""`per_sample`: a function of one completion becomes a TRL batch reward that runs in killable child processes.

A sample that hangs, crashes or raises costs that sample, is counted, and stops the run when it happens too often.
"""

import functools
import inspect
import multiprocessing
import os
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pebble import ProcessExpired, ProcessPool

from rlft.plugins import spec_of
from rlft.rewards import worker
from rlft.rewards.outcomes import Outcome, RewardError
from rlft.rewards.text import last_text
from rlft.rewards.worker import Scored

_BATCH_NAME = {"completion": "completions", "prompt": "prompts"}
_STAYS_IN_TRAINER = {"trainer_state", "log_extra", "log_metric", "environments"}
_POOLS = 3
"""Pools that a batch may take: pebble gives one up if a child died before it was known which sample it was at."""
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def per_sample(
    fn: Callable[..., Any],
    timeout: float = 10.0,
    processes: int | None = None,
    max_error_rate: float = 0.01,
    timeout_score: float | None = None,
    memory_mb: int | None = None,
) -> "PerSample":
    """Turn a function of one sample into a TRL reward that runs in child processes.

    Args:
        fn: `def f(completion, answer, ...) -> float | None`, at the top level of a module or file. Arguments are
            taken by name: `completion` (a conversation gives its last assistant text), `prompt` (as in the
            dataset), `completion_ids`, or any dataset column. It may raise `Unparseable`.
        timeout: Seconds for one sample; the child is then killed.
        processes: Child processes; default one per CPU core, at most 8.
        max_error_rate: Share of errors in one call above which `RewardError` is raised.
        timeout_score: Score of a sample that timed out. None = not applied.
        memory_mb: Address space of a child process, of which Python and what `fn` imports take their part; a sample
            that wants more is an error. None = no limit.

    Returns:
        A batch reward named like `fn`, for stock TRL too.

    Raises:
        PluginError: if a child process could not find `fn`: a lambda, a nested function, a partial.
        RewardError: if `fn` asks for what cannot leave the trainer (`trainer_state`, `log_metric`, ...) or is async.
    """
    processes = processes or min(8, os.cpu_count() or 1)
    return PerSample(fn, timeout, processes, max_error_rate, timeout_score, memory_mb)


class PerSample:
    """The reward that `per_sample` makes. `outcomes` counts how every sample so far has ended."""

    __name__: str

    def __init__(
        self,
        fn: Callable[..., Any],
        timeout: float,
        processes: int,
        max_error_rate: float,
        timeout_score: float | None,
        memory_mb: int | None,
    ) -> None:
        functools.update_wrapper(self, fn, updated=())
        self.sample_fn = fn
        self.outcomes: Counter[Outcome] = Counter()
        self._child = (spec_of(fn), memory_mb)
        self._parameters = _sample_parameters(fn)
        self.__signature__ = _batch_signature(self._parameters)
        self._timeout = timeout
        self._processes = processes
        self._max_error_rate = max_error_rate
        self._timeout_score = timeout_score
        self._pool: ProcessPool | None = None
        self._kill_pool: Callable[[], Any] | None = None

    def __call__(
        self,
        *,
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        """Score a batch.

        Args:
            completions: B strings or message lists.
            log_metric: TRL's hook; gets the share of each outcome as `rewards/<name>/<outcome>`.
            **kwargs: Lists of length B (`prompts` and the dataset columns) that arguments are taken from.

        Returns:
            B scores.

        Raises:
            RewardError: if an argument is missing, too large a share of the batch are errors (the first one's
                traceback is in the message), or the child processes cannot start.
        """
        columns = self._columns({**kwargs, "completions": [last_text(c) for c in completions]})
        try:
            rows = [{name: column[i] for name, column in columns.items()} for i in range(len(completions))]
            scored = self._scored(rows)
        except BaseException as error:
            self.close()  # an interrupted batch must not go on in the background
            if isinstance(error, RuntimeError):
                raise RewardError(
                    f"reward {self.__name__!r}: its child processes broke down ({error}). Where they could not "
                    'start, guard the training script with `if __name__ == "__main__":`.'
                ) from error
            raise
        self._account(scored, log_metric)
        return [s.score for s in scored]

    def close(self) -> None:
        """Kill the child processes. A later call starts new ones; the interpreter's exit closes by itself."""
        if self._kill_pool is not None:
            self._kill_pool()
        self._pool = self._kill_pool = None

    def _columns(self, batch: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
        wanted = {p.name: _BATCH_NAME.get(p.name, p.name) for p in self._parameters}
        missing = [p.name for p in self._parameters if p.default is p.empty and wanted[p.name] not in batch]
        if missing:
            raise RewardError(f"reward {self.__name__!r} requires {missing}; the batch has {sorted(batch)}.")
        return {name: batch[source] for name, source in wanted.items() if source in batch}

    def _running_pool(self) -> ProcessPool:
        if self._pool is None:
            # Not fork: a forked copy of a process with torch threads can deadlock.
            context = multiprocessing.get_context("forkserver")
            pool = ProcessPool(self._processes, initializer=worker.load, initargs=self._child, context=context)
            self._pool, self._kill_pool = pool, weakref.finalize(self, _kill, pool)
        return self._pool

    def _scored(self, rows: Sequence[dict[str, Any]]) -> list[Scored]:
        for _ in range(_POOLS - 1):
            try:
                return self._scored_once(rows)
            except BrokenProcessPool:
                self.close()
        return self._scored_once(rows)

    def _scored_once(self, rows: Sequence[dict[str, Any]]) -> list[Scored]:
        futures = [self._running_pool().schedule(worker.score, (row,), timeout=self._timeout) for row in rows]
        return [self._collect(future) for future in futures]

    def _collect(self, future: "Future[Scored]") -> Scored:
        try:
            return future.result()
        except TimeoutError:
            return Scored(Outcome.TIMEOUT, self._timeout_score)
        except ProcessExpired as error:
            return Scored(Outcome.ERROR, None, f"the child process died with exit code {error.exitcode}")

    def _account(self, scored: Sequence[Scored], log_metric: Callable[[str, float], None] | None) -> None:
        counts = Counter(s.outcome for s in scored)
        self.outcomes.update(counts)
        if log_metric is not None and scored:
            for outcome in Outcome:  # zeros too: TRL averages over the calls that logged
                log_metric(f"rewards/{self.__name__}/{outcome}", counts[outcome] / len(scored))
        errors = [(i, s.detail) for i, s in enumerate(scored) if s.outcome is Outcome.ERROR]
        if errors and len(errors) / len(scored) > self._max_error_rate:
            i, detail = errors[0]
            raise RewardError(
                f"reward {self.__name__!r} failed on {len(errors)} of {len(scored)} samples, more than "
                f"max_error_rate={self._max_error_rate:g} allows. The first is sample {i}:\n{detail}"
            )


def _sample_parameters(fn: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters that are filled from the batch; `*args` and `**kwargs` of a sample function stay empty."""
    parameters = [p for p in inspect.signature(fn).parameters.values() if p.kind in _NAMED]
    impossible = _STAYS_IN_TRAINER & {p.name for p in parameters}
    if impossible or inspect.iscoroutinefunction(fn):
        what = f"asks for {sorted(impossible)}" if impossible else "is async"
        raise RewardError(
            f"per_sample cannot run {fn.__name__!r} in a child process: it {what}. Write a plain function of the "
            "completion and dataset columns, or a batch reward."
        )
    return parameters


def _batch_signature(parameters: Sequence[inspect.Parameter]) -> inspect.Signature:
    names = {_BATCH_NAME.get(p.name, p.name): p.default for p in parameters} | {"completions": inspect.Parameter.empty}
    keywords = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d) for n, d in names.items()]
    return inspect.Signature([*keywords, inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)])


def _kill(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()
