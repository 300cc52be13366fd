"""The selector of DRO: a model is shown n candidates and writes which K it wants, best first.

Paper: "Direct Retrieval-augmented Optimization: Synergizing Knowledge Selection and Language Models", arXiv
2505.03075, section 3.1, eq. (1): p(z | x) = prod_t p(z_t | z_<t, x, d), a list z of K distinct candidates.

    user       instruction, [1] ... [2] ... [n] ..., question
    assistant  [3] > [1] > ...                       label of the segment: list (model)

All samples of a row share one prompt, so a policy that reads equal prompts once reads it once.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlft.rollouts.engine import Machine, run
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.list_text import ListOptions, ListRead, passages_of, read_list, spell
from rlft.rollouts.policy import Draw, Generation, Grammar, Policy, Sampling, seed_of
from rlft.rollouts.search import question_of
from rlft.rollouts.search_text import fill, listed
from rlft.rollouts.trajectory import FinishReason, Segment, Trajectory


@dataclass(frozen=True)
class PermutationRollout:
    """Lists of candidates as a rollout plug-in: `rollout(rows, policy, sampling) -> list[Trajectory]`.

    Args:
        frame: the chat template.
        options: counts, parsing and templates.
        samples: m lists of each row.
        seed: of the run.
        round: names the draw within the run; another name draws other lists, and shuffles anew.
        shuffle: show each row's candidates in an order of its own, one for all its samples.

    Calling it gives `len(rows) * samples` trajectories, those of one row together. A row holds:
        question: the question, not empty.
        candidates: n passages in the retriever's order, `{id, title, text}` each.
        id: names the row in seeds and in `fields`; the question, where absent.

    A trajectory has one segment, `list`, and these fields:
        id: of the row.
        shown: the candidates' places in the row, from 0, in the order in which they were presented.
        list: the K chosen places in the row's order, best first; empty where there is a fault.
        fault: a `ListFault` or None.
        text: what the model wrote last.
        attempts: draws that were made.
        cut: its token cap cut it.
        padded: places were filled up.
        respelled: the segment is the canonical spelling of the list in place of what was sampled, without log-probs:
            padded, untidily spelled, or cut behind its last number. Only a lenient reading gives such.

    `finish` is STOP for a list without a fault; else LENGTH if the cap cut it, and MALFORMED if not.

    Raises:
        ValueError: if `samples` is below 1; before anything is generated, if a row has no question, fewer candidates
            than `size`, candidates that are no passages, or a prompt longer than `max_tokens - max_list_tokens`; with
            `constrained`, if the tokenizer has no grammar of lists (`ListGrammar`) or `max_list_tokens` cannot hold
            the longest list.
    """

    frame: ChatFrame
    options: ListOptions = ListOptions()
    samples: int = 1
    seed: int = 0
    round: object = 0
    shuffle: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples={self.samples} lists of each row; must be at least 1.")

    def __call__(self, rows: Sequence[Mapping[str, Any]], policy: Policy, sampling: Sampling) -> list[Trajectory]:
        """All trajectories, row by row."""
        shown = [self._shown(row) for row in rows]
        grammars = self._grammars({len(one.order) for one in shown})
        machines = [
            _machine(one, seed_of(*self._names(row), sample), grammars.get(len(one.order)), self.frame, self.options)
            for row, one in zip(rows, shown, strict=True)
            for sample in range(self.samples)
        ]
        return run(machines, policy, sampling)

    def _names(self, row: Mapping[str, Any]) -> tuple[object, ...]:
        return self.seed, self.round, _name(row)

    def _shown(self, row: Mapping[str, Any]) -> "_Shown":
        question_of(row)
        order = list(range(len(row.get("candidates") or ())))
        if self.shuffle:
            random.Random(seed_of(*self._names(row), "order")).shuffle(order)
        return _Shown(_name(row), order, list_prompt(self.frame, row, order, self.options))

    def _grammars(self, counts: set[int]) -> dict[int, Grammar]:
        if not self.options.constrained:
            return {}
        from rlft.rollouts.grammar import ListGrammar

        grammars = {count: ListGrammar(self.frame, count, self.options.size) for count in counts}
        longest = max((grammar.longest for grammar in grammars.values()), default=0)
        if longest > self.options.max_list_tokens:
            raise ValueError(
                f"max_list_tokens={self.options.max_list_tokens} cuts the longest list of {longest} tokens; raise it."
            )
        return dict(grammars)


@dataclass(frozen=True, slots=True)
class _Shown:
    """A row as the model sees it."""

    name: object
    order: list[int]
    prompt_ids: list[int]


def _name(row: Mapping[str, Any]) -> object:
    return row.get("id", row["question"])


def list_prompt(frame: ChatFrame, row: Mapping[str, Any], order: Sequence[int], options: ListOptions) -> list[int]:
    """Ids of the conversation up to where the list begins.

    Args:
        frame: the chat template.
        row: as `PermutationRollout` takes it.
        order: the places of its candidates in the order of presentation; numbered from 1 in it.
        options: counts and templates.

    Raises:
        ValueError: for fewer candidates than `size`, candidates that are no passages, or a prompt that leaves less
            than `max_list_tokens` of `max_tokens`, with the row's id.
    """
    name = _name(row)
    candidates = passages_of(row.get("candidates") or (), name)
    if len(candidates) < options.size:
        raise ValueError(
            f"row {name!r} has {len(candidates)} candidates, and a list takes size={options.size} different ones; "
            "lower size, retrieve more, or leave the row out."
        )
    values = {
        "passages": frame.neutral(listed([candidates[place] for place in order], options.passage)),
        "question": frame.neutral(question_of(row)),
        "count": str(len(candidates)),
        "size": str(options.size),
    }
    prompt_ids = frame.opening(fill(options.instruction, values))
    if len(prompt_ids) > options.max_tokens - options.max_list_tokens:
        raise ValueError(
            f"row {name!r}: its prompt with {len(candidates)} candidates has {len(prompt_ids)} tokens, and "
            f"max_tokens={options.max_tokens} less max_list_tokens={options.max_list_tokens} leaves "
            f"{options.max_tokens - options.max_list_tokens}; raise max_tokens, or give fewer or shorter candidates."
        )
    return prompt_ids


def _machine(shown: _Shown, seed: int, grammar: Grammar | None, frame: ChatFrame, options: ListOptions) -> Machine:
    """One list, drawn again while it has a fault and `resamples` allows it."""
    most = 1 + (options.resamples if options.invalid == "resample" else 0)
    for attempt in range(most):
        generation = yield Draw(shown.prompt_ids, seed_of(seed, attempt), options.max_list_tokens, grammar)
        text = frame.decode(generation.ids)
        read = read_list(text, len(shown.order), options, cut=not generation.stopped)
        if read.fault is None:
            break
    segment, respelled = _target(generation, text, read, frame)
    fields = {
        "id": shown.name,
        "shown": list(shown.order),
        "list": [shown.order[place] for place in read.places],
        "fault": None if read.fault is None else str(read.fault),
        "text": text,
        "attempts": attempt + 1,
        "cut": not generation.stopped,
        "padded": read.padded,
        "respelled": respelled,
    }
    return Trajectory(shown.prompt_ids, [segment], _finish(generation, read), fields)


def _target(generation: Generation, text: str, read: ListRead, frame: ChatFrame) -> tuple[Segment, bool]:
    """What is trained on, and whether it is not what was sampled."""
    spelled = spell(read.places)
    said = text.rpartition("</think>")[2].strip()
    if read.fault is None and (said != spelled or not generation.stopped):
        return Segment(frame.turn_ids(spelled), trainable=True, label="list"), True
    return Segment(generation.ids, trainable=True, label="list", logprobs=generation.logprobs), False


def _finish(generation: Generation, read: ListRead) -> FinishReason:
    if read.fault is None:
        return FinishReason.STOP
    return FinishReason.MALFORMED if generation.stopped else FinishReason.LENGTH
