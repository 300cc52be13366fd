"""What the processes of one run do together: take over what the main one has, share out work."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

Value = TypeVar("Value")
Item = TypeVar("Item")


def from_main(value: Value) -> Value:
    """The main process's value, in every process; all of them call this."""
    held = [value]
    if PartialState().num_processes > 1:
        broadcast_object_list(held)
    return held[0]


def each_its_share(items: Sequence[Item], work: Callable[[list[Item]], Sequence[Value]]) -> list[Value]:
    """A value for each item in every process, where each works on its share; all of them call this.

    Args:
        items: N, the same in every process.
        work: items -> as many values.
    """
    state = PartialState()
    mine = range(state.process_index, len(items), state.num_processes)
    values = work([items[place] for place in mine])
    gathered = dict(gather_object(list(zip(mine, values, strict=True))))
    return [gathered[place] for place in range(len(items))]
