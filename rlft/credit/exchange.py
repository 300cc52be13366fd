"""Rows of groups that straddle processes: to the one process that weighs the group, and its weights on the way back.

Outcomes are known everywhere, so every process knows without a message which groups straddle, who holds which rows and
who weighs them: the process with most of the rows. Rows go there from process to process, their model tokens only and
states in their own dtype; a process that shares no such group neither sends nor waits. Two processes share at most one
group, since rows lie in order, so a message needs no label.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from torch import distributed as dist

from rlft.credit.batch import Row

Parcel = tuple[int, Tensor]
"""The process at the other end, and what it sends or is sent."""


def places_of(number: int, group_size: int, rows: int) -> dict[int, range]:
    """Global indices of a group's rows by process, where every process holds `rows` consecutive ones."""
    begin, end = number * group_size, (number + 1) * group_size
    ranks = range(begin // rows, (end - 1) // rows + 1)
    return {rank: range(max(begin, rank * rows), min(end, (rank + 1) * rows)) for rank in ranks}


def owner_of(places: Mapping[int, range]) -> int:
    """The process that weighs a group: the one with most of its rows, the first of several."""
    return max(places, key=lambda rank: (len(places[rank]), -rank))


@dataclass(frozen=True)
class Share:
    """Rows of a straddling group, by global index, that travel between this process and `peer`."""

    number: int
    peer: int
    rows: range


class Exchange:
    """One generation batch's traffic.

    Args:
        numbers: groups to weigh, over all processes.
        rows: B rows of this process.
        group_size: G.
        accelerator: of the run.
    """

    def __init__(self, numbers: Iterable[int], rows: Sequence[Row], group_size: int, accelerator: Accelerator):
        self.group_size, self.device = group_size, accelerator.device
        rank = accelerator.process_index
        self.rows = dict(enumerate(rows, rank * len(rows)))
        self.whole: list[int] = []
        """Groups that lie on this process alone."""
        self.sent_bytes = 0
        self._outgoing: list[Share] = []
        self._incoming: list[Share] = []
        self._returning: list[tuple[Share, Tensor]] = []
        self._arrive: Callable[[], None] = lambda: None
        for number in numbers:
            places = places_of(number, group_size, len(rows))
            owner = owner_of(places)
            if list(places) == [rank]:
                self.whole.append(number)
            elif owner == rank:
                self._incoming += [Share(number, peer, there) for peer, there in places.items() if peer != rank]
            elif rank in places:
                self._outgoing.append(Share(number, owner, places[rank]))

    def collect(self) -> dict[int, list[Row]]:
        """All rows of the straddling groups that this process weighs, by group number."""
        tables = [torch.empty(len(share.rows), 2, dtype=torch.long, device=self.device) for share in self._incoming]
        self._start(
            [(share.peer, _table(self._rows_of(share)).to(self.device)) for share in self._outgoing],
            [(share.peer, table) for share, table in zip(self._incoming, tables, strict=True)],
        )()
        lists = [table.tolist() for table in tables]
        rooms = [_room(table, self._own_row(share)) for share, table in zip(self._incoming, lists, strict=True)]
        self._start(
            [(share.peer, tensor) for share in self._outgoing for tensor in _packed(self._rows_of(share))],
            [(share.peer, tensor) for share, room in zip(self._incoming, rooms, strict=True) for tensor in room],
        )()
        known = dict(self.rows)
        for share, table, room in zip(self._incoming, lists, rooms, strict=True):
            known |= zip(share.rows, _unpacked(table, room, self._own_row(share)), strict=True)
        return {share.number: [known[index] for index in self._group(share)] for share in self._incoming}

    def hand_back(self, weights: Mapping[int, Tensor]) -> None:
        """Start to send the weights of others' rows and to receive those of rows sent away.

        Args:
            weights: tensors (T_i,) by global row index, for every row of the groups that `collect` gave.
        """
        outgoing = [
            (share.peer, torch.cat([weights[index] for index in share.rows]).to(self.device, torch.float32))
            for share in self._incoming
        ]
        self._returning = [
            (share, torch.empty(sum(len(row.ids_T) for row in self._rows_of(share)), device=self.device))
            for share in self._outgoing
        ]
        self._arrive = self._start(outgoing, [(share.peer, weights_N) for share, weights_N in self._returning])

    def returned(self) -> dict[int, Tensor]:
        """Weights (T_i,) on the CPU, by global index, of the rows that this process sent away."""
        self._arrive()
        weights: dict[int, Tensor] = {}
        for share, weights_N in self._returning:
            lengths = [len(row.ids_T) for row in self._rows_of(share)]
            weights |= zip(share.rows, weights_N.cpu().split(lengths), strict=True)
        return weights

    def _start(self, outgoing: Sequence[Parcel], incoming: Sequence[Parcel]) -> Callable[[], None]:
        """Start to send and to receive; the answer, when called, waits for both."""
        sent = [(peer, tensor.contiguous()) for peer, tensor in outgoing if tensor.numel()]
        self.sent_bytes += sum(tensor.nbytes for _, tensor in sent)
        operations = [dist.P2POp(dist.isend, tensor, peer) for peer, tensor in sent]
        operations += [dist.P2POp(dist.irecv, tensor, peer) for peer, tensor in incoming if tensor.numel()]
        works = dist.batch_isend_irecv(operations) if operations else []

        def wait() -> None:
            for work in works:
                work.wait()
            operations.clear()  # until now they held what was being sent

        return wait

    def _group(self, share: Share) -> range:
        return range(share.number * self.group_size, (share.number + 1) * self.group_size)

    def _rows_of(self, share: Share) -> list[Row]:
        return [self.rows[index] for index in share.rows]

    def _own_row(self, share: Share) -> Row:
        return next(self.rows[index] for index in self._group(share) if index in self.rows)


def _table(rows: Sequence[Row]) -> Tensor:
    """Length and answer start of each row; -1 for none."""
    return torch.tensor([[len(row.ids_T), -1 if row.answer_start is None else row.answer_start] for row in rows])


def _packed(rows: Sequence[Row]) -> list[Tensor]:
    """Tokens of all rows end to end, one tensor for each thing that credit reads."""
    parts = [torch.cat([row.ids_T for row in rows]).int()]
    parts += [torch.cat(states)] if (states := [row.hidden_TH for row in rows if row.hidden_TH is not None]) else []
    return parts + ([torch.cat(nats)] if (nats := [row.entropy_T for row in rows if row.entropy_T is not None]) else [])


def _room(table: list[list[int]], like: Row) -> list[Tensor]:
    """Empty tensors for what `_packed` gave of rows with this table; `like` is another row of their group."""
    tokens = sum(length for length, _ in table)
    room = [like.ids_T.new_empty(tokens, dtype=torch.int32)]
    for value in (like.hidden_TH, like.entropy_T):
        room += [] if value is None else [value.new_empty(tokens, *value.shape[1:])]
    return room


def _unpacked(table: list[list[int]], room: Sequence[Tensor], like: Row) -> list[Row]:
    lengths = [length for length, _ in table]
    ids, *rest = (tensor.split(lengths) for tensor in room)
    hidden = rest.pop(0) if like.hidden_TH is not None else [None] * len(lengths)
    entropy = rest.pop(0) if like.entropy_T is not None else [None] * len(lengths)
    return [
        Row(ids_T.long(), hidden_TH, entropy_T, None if start < 0 else start)
        for ids_T, hidden_TH, entropy_T, (_, start) in zip(ids, hidden, entropy, table, strict=True)
    ]
