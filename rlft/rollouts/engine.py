"""Drives many trajectories together: their generations in one batch, their searches in threads beside it.

A trajectory is a generator, a *machine*, that yields what it wants next and gets it back:

    generation = yield Draw(prompt_ids, seed, max_new_tokens)
    passages = yield Search(query, k)
    return Trajectory(...)

All machines that want a generation are served by one call of the policy. Searches go to threads in batches, equal ones
once. A machine that is done leaves; one whose search is slow does not hold up the rest. What a machine gets depends on
what it asked and on nothing else, so neither timing nor batch sizes change a trajectory.
"""

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from rlft.retrieval.passage import Passage, RetrievalError, Retriever
from rlft.rollouts.policy import Draw, Policy, Sampling
from rlft.rollouts.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Search:
    """One search that is wanted; the reply is a list of at most `k` passages, best first."""

    query: str
    k: int


Machine = Generator[Draw | Search, Any, Trajectory]
"""Yields `Draw` (gets a `Generation`) and `Search` (gets `list[Passage]`), and returns its trajectory."""

LEAST_PATIENCE = 0.05
"""Seconds that a search is waited for at least before the others go on without it."""


def run(
    machines: Sequence[Machine],
    policy: Policy,
    sampling: Sampling,
    retriever: Retriever | None = None,
    *,
    search_batch: int = 64,
    search_threads: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> list[Trajectory]:
    """Run machines to their end.

    Args:
        machines: fresh generators, one a trajectory.
        policy: answers the draws.
        sampling: the distribution all draws come from.
        retriever: answers the searches; None if no machine searches.
        search_batch: queries in one call of the retriever.
        search_threads: calls of the retriever under way at once.
        progress: called with (finished, total) whenever machines have finished.

    Returns:
        Trajectories in the order of the machines.

    Raises:
        RetrievalError: from the retriever, or if it gave another number of lists than it had queries.
        ValueError: if a machine searches and there is no retriever, or a policy gave another number of generations
            than it had draws, or a size is below 1.

    Whatever a policy, retriever or machine raises ends the run at once: the other machines are closed, searches not yet
    begun are cancelled, and calls of the retriever under way end in their threads unheard.
    """
    if search_batch < 1 or search_threads < 1:
        raise ValueError(f"search_batch={search_batch}, search_threads={search_threads}: both must be at least 1.")
    pool = ThreadPoolExecutor(search_threads, thread_name_prefix="search")
    try:
        return _Engine(machines, policy, sampling, retriever, search_batch, pool, progress).run()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for machine in machines:
            machine.close()


@dataclass(slots=True)
class _Call:
    """One call of the retriever under way."""

    searches: list[Search]
    waited: float = 0.0
    """Seconds during which others could have gone on."""


class _Engine:
    def __init__(
        self,
        machines: Sequence[Machine],
        policy: Policy,
        sampling: Sampling,
        retriever: Retriever | None,
        search_batch: int,
        pool: ThreadPoolExecutor,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.machines, self.policy, self.sampling = machines, policy, sampling
        self.retriever, self.search_batch, self.pool, self.progress = retriever, search_batch, pool, progress
        self.done: dict[int, Trajectory] = {}
        self.draws: dict[int, Draw] = {}
        self.wanted: dict[Search, list[int]] = {}
        """Who waits for which search, begun or not."""
        self.unbegun: list[Search] = []
        self.calls: dict[Future[list[list[Passage]]], _Call] = {}
        self.patience = LEAST_PATIENCE

    def run(self) -> list[Trajectory]:
        for number in range(len(self.machines)):
            self._advance(number, None)
        reported = 0
        while self.draws or self.wanted:
            self._begin_searches()
            self._collect_searches()
            self._generate()
            if self.progress and len(self.done) > reported:
                reported = len(self.done)
                self.progress(reported, len(self.machines))
        return [self.done[number] for number in range(len(self.machines))]

    def _advance(self, number: int, reply: Any) -> None:
        try:
            request = self.machines[number].send(reply)
        except StopIteration as end:
            self.done[number] = end.value
            return
        if isinstance(request, Draw):
            self.draws[number] = request
            return
        if self.retriever is None:
            raise ValueError(f"a rollout searches for {request.query!r}, but there is no retriever; give run() one.")
        if request not in self.wanted:
            self.unbegun.append(request)
        self.wanted.setdefault(request, []).append(number)

    def _generate(self) -> None:
        if not self.draws:
            return
        ready, self.draws = sorted(self.draws.items()), {}
        started = time.perf_counter()
        generations = self.policy.generate([draw for _, draw in ready], self.sampling)
        self.patience = max(LEAST_PATIENCE, time.perf_counter() - started)
        if len(generations) != len(ready):
            raise ValueError(
                f"{type(self.policy).__name__}.generate gave {len(generations)} generations for {len(ready)} draws; "
                "a policy answers every draw once, in order."
            )
        for (number, _), generation in zip(ready, generations, strict=True):
            self._advance(number, generation)

    def _begin_searches(self) -> None:
        unbegun, self.unbegun = self.unbegun, []
        by_k: dict[int, list[Search]] = {}
        for search in unbegun:
            by_k.setdefault(search.k, []).append(search)
        for k, searches in by_k.items():
            for start in range(0, len(searches), self.search_batch):
                batch = searches[start : start + self.search_batch]
                self.calls[self.pool.submit(self._search, [search.query for search in batch], k)] = _Call(batch)

    def _collect_searches(self) -> None:
        """Take in the searches that are done, having waited for those still under way as long as that pays.

        To go on without them costs at most one more generate call. So each call of the retriever is waited for that
        long while others could go on: the rule of the ski rental, never worse than twice the best. A retriever in
        memory thus never splits a batch of generations, and a slow one holds the others up by one call at most.
        """
        while self.calls:
            patience = max(self.patience - call.waited for call in self.calls.values())
            started = time.perf_counter()
            done, _ = wait(self.calls, max(0.0, patience) if self.draws else None, FIRST_COMPLETED)
            if self.draws:
                for call in self.calls.values():
                    call.waited += time.perf_counter() - started
            if not done:
                return
            for future in done:
                self._hand_out(self.calls.pop(future), future.result())
            self._begin_searches()

    def _hand_out(self, call: _Call, found: list[list[Passage]]) -> None:
        for search, passages in zip(call.searches, found, strict=True):
            for number in self.wanted.pop(search):
                self._advance(number, list(passages))

    def _search(self, queries: list[str], k: int) -> list[list[Passage]]:
        assert self.retriever is not None
        found = self.retriever.search(queries, k)
        if len(found) != len(queries):
            raise RetrievalError(
                f"retriever {self.retriever.name!r} gave {len(found)} result lists for {len(queries)} queries; it must "
                "give one for each, an empty one where nothing matches."
            )
        return found
