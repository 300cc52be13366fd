"""Machines that count, a policy that adds up, retrievers that are slow, wrong or broken."""

import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from rlft.retrieval.passage import Passage, RetrievalError
from rlft.rollouts import engine
from rlft.rollouts.engine import Machine, Search, run
from rlft.rollouts.policy import GREEDY, Draw, Generation, Sampling
from rlft.rollouts.trajectory import FinishReason, Segment, Trajectory
from tests.rollouts.scripted import Shelf, passage_of


class Sums:
    """Continues ids with their sum plus the seed."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def generate(self, draws: Sequence[Draw], sampling: Sampling) -> list[Generation]:
        self.calls.append(len(draws))
        return [Generation([sum(draw.prompt_ids) + draw.seed], [-1.0], True) for draw in draws]


class Echo:
    """Finds `k` passages that repeat the query."""

    name = "echo"

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.calls.append(list(queries))
        return [[passage_of(query, place, query) for place in range(k)] for query in queries]


def machine(number: int, turns: int, log: list[Any] | None = None) -> Machine:
    """Draws and searches in turn; what it was given is in its trajectory."""
    ids, shown = [number], []
    try:
        for turn in range(turns):
            generation = yield Draw(ids, seed=turn, max_new_tokens=1)
            ids = ids + generation.ids
            passages = yield Search(f"{ids[-1]}", k=2)
            shown += [passage.id for passage in passages]
    finally:
        if log is not None:
            log.append(number)
    return Trajectory([number], [Segment(ids[1:], True, "act")], FinishReason.STOP, {"shown": shown})


def expected(number: int, turns: int) -> Trajectory:
    """One machine by hand, no engine."""
    ids, shown = [number], []
    for turn in range(turns):
        ids = [*ids, sum(ids) + turn]
        shown += [f"{ids[-1]}/0", f"{ids[-1]}/1"]
    return Trajectory([number], [Segment(ids[1:], True, "act")], FinishReason.STOP, {"shown": shown})


@pytest.mark.parametrize("search_batch", [1, 7, 64])
@pytest.mark.parametrize("search_threads", [1, 8])
def test_trajectories_come_in_order_whatever_the_batches(search_batch: int, search_threads: int) -> None:
    turns = [random.Random(number).randrange(0, 6) for number in range(40)]
    found = run(
        [machine(number, count) for number, count in enumerate(turns)],
        Sums(),
        GREEDY,
        Echo(),
        search_batch=search_batch,
        search_threads=search_threads,
    )
    assert found == [expected(number, count) for number, count in enumerate(turns)]


def test_a_fast_retriever_never_splits_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LEAST_PATIENCE", 60.0)  # however busy the machine that runs this test is
    policy, retriever = Sums(), Echo()
    run([machine(number, 3) for number in range(100)], policy, GREEDY, retriever, search_batch=7)
    assert policy.calls == [100, 100, 100]
    assert sorted(map(len, retriever.calls))[-1] == 7


def test_the_finished_leave_the_batch() -> None:
    policy = Sums()
    run([machine(number, number) for number in range(1, 5)], policy, GREEDY, Echo())
    assert sum(policy.calls) == 1 + 2 + 3 + 4


def test_equal_searches_of_a_turn_are_made_once() -> None:
    retriever = Echo()
    found = run([machine(5, 2) for _ in range(20)], Sums(), GREEDY, retriever)
    assert found == [expected(5, 2)] * 20
    assert retriever.calls == [["5"], ["11"]]


def test_who_spends_its_passages_leaves_those_of_the_others() -> None:
    def spending() -> Machine:
        passages = yield Search("q", 3)
        spent = [passages.pop() for _ in range(3)]
        return Trajectory([], [], FinishReason.STOP, {"spent": len(spent)})

    found = run([spending() for _ in range(4)], Sums(), GREEDY, Echo())
    assert [trajectory.fields["spent"] for trajectory in found] == [3] * 4


def test_searches_of_different_k_go_apart() -> None:
    def one(k: int) -> Machine:
        passages = yield Search("q", k)
        return Trajectory([], [], FinishReason.STOP, {"found": len(passages)})

    found = run([one(1), one(3), one(3)], Sums(), GREEDY, Echo())
    assert [trajectory.fields["found"] for trajectory in found] == [1, 3, 3]


class Gated(Echo):
    """Holds one query back until the gate opens."""

    def __init__(self, held: str) -> None:
        super().__init__()
        self.held, self.gate = held, threading.Event()

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        if self.held in queries:
            assert self.gate.wait(20)
        return super().search(queries, k)


def test_a_slow_search_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LEAST_PATIENCE", 0.001)
    retriever = Gated(held="7")

    class Opening(Sums):
        def generate(self, draws: Sequence[Draw], sampling: Sampling) -> list[Generation]:
            if max(len(draw.prompt_ids) for draw in draws) == 4:  # the others are in their last turn
                retriever.gate.set()
            return super().generate(draws, sampling)

    found = run([machine(number, 4) for number in (7, 8, 9)], Opening(), GREEDY, retriever, search_batch=1)
    assert found == [expected(number, 4) for number in (7, 8, 9)]


def test_who_asks_for_what_is_being_searched_joins_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LEAST_PATIENCE", 0.001)
    retriever = Gated(held="slow")

    def direct(query: str) -> Machine:
        passages = yield Search(query, 2)
        return Trajectory([], [], FinishReason.STOP, {"shown": [passage.id for passage in passages]})

    def late() -> Machine:
        for _ in range(3):
            yield Draw([1], 0, 1)
        threading.Timer(0.01, retriever.gate.set).start()
        return (yield from direct("slow"))

    found = run([direct("slow"), late()], Sums(), GREEDY, retriever)
    assert [trajectory.fields["shown"] for trajectory in found] == [["slow/0", "slow/1"]] * 2
    assert retriever.calls == [["slow"]]


def test_progress_counts_the_finished() -> None:
    seen: list[tuple[int, int]] = []
    run([machine(number, number) for number in range(4)], Sums(), GREEDY, Echo(), progress=lambda *a: seen.append(a))
    assert seen == sorted(seen)
    assert seen[-1] == (4, 4)


def test_no_machines_no_trajectories() -> None:
    assert run([], Sums(), GREEDY) == []


def test_rollouts_are_imported_without_torch() -> None:
    rooms = "conversation engine frame neutral policy ranking search select single_turn store trajectory"
    modules = ", ".join(f"rlft.rollouts.{name}" for name in rooms.split())
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class Failing(Echo):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        raise self.error


@pytest.mark.parametrize("error", [RetrievalError("server down after 5 tries"), KeyError("x")])
def test_what_a_retriever_raises_comes_out_unchanged(error: Exception) -> None:
    closed: list[int] = []
    with pytest.raises(type(error)) as raised:
        run([machine(number, 2, closed) for number in range(3)], Sums(), GREEDY, Failing(error))
    assert raised.value is error
    assert sorted(closed) == [0, 1, 2]
    assert no_search_threads()


def test_what_a_policy_raises_comes_out_at_once_though_a_search_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LEAST_PATIENCE", 0.001)
    retriever = Gated(held="7")
    closed: list[int] = []

    class Broken(Sums):
        def generate(self, draws: Sequence[Draw], sampling: Sampling) -> list[Generation]:
            if self.calls:
                raise MemoryError("no room on the device")
            return super().generate(draws, sampling)

    with pytest.raises(MemoryError, match="no room"):
        run([machine(number, 3, closed) for number in (7, 8)], Broken(), GREEDY, retriever, search_batch=1)
    assert sorted(closed) == [7, 8]
    assert any(thread.name.startswith("search") for thread in threading.enumerate())
    retriever.gate.set()
    assert no_search_threads()


def test_what_a_machine_raises_closes_the_others() -> None:
    closed: list[int] = []

    def broken() -> Machine:
        yield Draw([1], 0, 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run([machine(1, 2, closed), broken(), machine(2, 2, closed)], Sums(), GREEDY, Echo())
    assert sorted(closed) == [1, 2]
    assert no_search_threads()


def no_search_threads() -> bool:
    """Whether the pool's threads end."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("search")]
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)


def test_a_wrong_number_of_results_is_refused() -> None:
    class Short(Echo):
        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            return super().search(queries, k)[1:]

    with pytest.raises(RetrievalError, match="'echo' gave 2 result lists for 3 queries"):
        run([machine(number, 1) for number in range(3)], Sums(), GREEDY, Short())


def test_a_wrong_number_of_generations_is_refused() -> None:
    class Short(Sums):
        def generate(self, draws: Sequence[Draw], sampling: Sampling) -> list[Generation]:
            return super().generate(draws, sampling)[1:]

    with pytest.raises(ValueError, match="2 generations for 3 draws"):
        run([machine(number, 1) for number in range(3)], Short(), GREEDY, Echo())


def test_a_search_without_a_retriever_is_refused() -> None:
    with pytest.raises(ValueError, match="no retriever"):
        run([machine(1, 1)], Sums(), GREEDY)


@pytest.mark.parametrize("sizes", [{"search_batch": 0}, {"search_threads": 0}])
def test_sizes_below_one_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        run([], Sums(), GREEDY, Shelf({}), **sizes)
