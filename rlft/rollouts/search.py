"""The think, search, record loop of EXSEARCH: the model asks, a retriever shows passages, the model notes and goes on.

Paper: "Iterative Self-Incentivization Empowers Large Language Models as Agentic Searchers", arXiv 2505.20128: a
trajectory z = ((q_1, D_1, e_1), ..., (q_T, D_T, e_T)) of queries, passages and recorded evidence, then an answer y.

    user       instruction and question          label of the segment
    assistant  <QUERY> q_1                        act       (model)
    user       <SEARCH> [1] ... [2] ...           search    (environment)
    assistant  <FACT> e_1 <QUERY> q_2             act
    user       <SEARCH> ...                       search
    assistant  <FACT> e_2 <FINAL>                 act
    user       request for the answer             request   (environment)
    assistant  y                                  answer    (model)

The loop condition is read from decoded text, every turn is conditioned on the whole conversation, and the passages are
the environment's: they carry no loss. Where the model does not end the search itself (`FinishReason.HOPS`, `REPEAT`,
`MALFORMED`) the answer is asked for at once.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlft.retrieval.passage import Passage, Retriever
from rlft.rollouts.conversation import Conversation
from rlft.rollouts.engine import Machine, Search, run
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.policy import Draw, Policy, Sampling, seed_of
from rlft.rollouts.search_text import MARKERS, SEARCH, SearchOptions, fill, listed, read_turn, same_query
from rlft.rollouts.select import select
from rlft.rollouts.trajectory import FinishReason, Trajectory

AnswerMode = Literal["sample", "open"]
"""`sample`: the model writes the answer. `open`: the trajectory ends with the request, for a scorer to append the gold
answer."""


@dataclass(frozen=True)
class SearchRollout:
    """The search loop as a rollout plug-in: `rollout(rows, policy, sampling) -> list[Trajectory]`.

    Args:
        frame: the chat template, built with `ChatFrame(tokenizer, markers=MARKERS)`.
        retriever: finds passages.
        options: caps, counts and templates.
        answer: whether the model answers, or the trajectory is left open for the gold answer.
        samples: K trajectories of each row.
        seed: of the run.
        round: names the draw within the run; another name draws other trajectories.
        search_batch, search_threads, progress: as `rlft.rollouts.engine.run` takes them.

    Calling it gives `len(rows) * samples` trajectories, those of one row together. A row holds:
        question: the question, not empty.
        id: names the row in seeds and in `fields`; the question, where absent.
        system: a system text, or None; may be absent.
        seed: goes before `(seed, round, id)` where present.
        max_completion_tokens: a further cap on all that follows the prompt; may be absent.

    Raises:
        ValueError: if the frame does not know the markers, `samples` is below 1, or a row has no question.
        RetrievalError: if a search could not be carried out.
    """

    frame: ChatFrame
    retriever: Retriever
    options: SearchOptions = SearchOptions()
    answer: AnswerMode = "sample"
    samples: int = 1
    seed: int = 0
    round: object = 0
    search_batch: int = 64
    search_threads: int = 8
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if not set(MARKERS) <= set(self.frame.markers):
            raise ValueError(
                f"the frame knows the markers {self.frame.markers}, so passages could fake actions; build it with "
                "ChatFrame(tokenizer, markers=rlft.rollouts.search_text.MARKERS)."
            )
        if self.samples < 1:
            raise ValueError(f"samples={self.samples} trajectories of each row; must be at least 1.")

    def __call__(self, rows: Sequence[Mapping[str, Any]], policy: Policy, sampling: Sampling) -> list[Trajectory]:
        """All trajectories, row by row."""
        machines = [
            search_machine(
                row, seed_of(*self._names(row), sample), frame=self.frame, options=self.options, answer=self.answer
            )
            for row in rows
            for sample in range(self.samples)
        ]
        return run(
            machines,
            policy,
            sampling,
            self.retriever,
            search_batch=self.search_batch,
            search_threads=self.search_threads,
            progress=self.progress,
        )

    def _names(self, row: Mapping[str, Any]) -> tuple[object, ...]:
        question_of(row)  # refused here, before anything is generated
        return (row["seed"],) if "seed" in row else (self.seed, self.round, row.get("id", row["question"]))


def search_machine(
    row: Mapping[str, Any], seed: int, *, frame: ChatFrame, options: SearchOptions, answer: AnswerMode
) -> Machine:
    """One search trajectory, for `rlft.rollouts.engine.run`.

    Args:
        row: as `SearchRollout` takes it.
        seed: of the trajectory; every turn derives its own.
        frame: the chat template.
        options: caps, counts and templates.
        answer: who answers.

    Returns:
        The machine. Its trajectory's `fields`: `id`; `queries`, `passage_ids` and `passage_titles` (of those shown) and
        `facts`, one for each hop (the last hop may lack its fact); `hops`, their number; `refused_query`, a query that
        was not searched, or None; `empty_facts`, `dropped_passages` (did not fit) and `unread_selections`, counts;
        with `answer="sample"` also `answer`, its text, and `answer_cut`, whether its cap cut it (None where no answer
        was asked for).
    """
    question = frame.neutral(question_of(row))
    prompt_ids = frame.opening(fill(options.instruction, {"question": question}), row.get("system"))
    cap = min(options.max_tokens, len(prompt_ids) + row.get("max_completion_tokens", options.max_tokens))
    loop = _Loop(Conversation(frame, prompt_ids, cap), question, seed, frame, options)
    finish = yield from loop.hops()
    fields = {"id": row.get("id", row["question"]), **loop.fields()}
    if answer == "sample":
        fields |= {"answer": None, "answer_cut": None}
    if finish is not FinishReason.LENGTH:
        loop.talk.tell(loop.talk.reply_ids(loop.request), "request")
        if answer == "sample":
            written = yield from loop.talk.write("answer", seed_of(seed, "answer"), options.max_answer_tokens)
            fields |= {"answer": written.text.strip(), "answer_cut": not written.stopped}
    return Trajectory(prompt_ids, loop.talk.segments, finish, fields, loop.branches)


def question_of(row: Mapping[str, Any]) -> str:
    """The row's question.

    Raises:
        ValueError: if it has none.
    """
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"row {row.get('id', row)!r} has no question: row['question'] is {question!r}.")
    return question


class _Loop:
    """The hops of one trajectory. Every turn leaves room for another, and for the request and an answer."""

    def __init__(self, talk: Conversation, question: str, seed: int, frame: ChatFrame, options: SearchOptions) -> None:
        self.talk, self.question, self.seed = talk, question, seed
        self.frame, self.options = frame, options
        self.request = fill(options.answer_request, {"question": question})
        self.kept_free = len(frame.reply(self.request, [])) + options.max_answer_tokens
        self.queries: list[str] = []
        self.facts: list[str] = []
        self.passage_ids: list[list[str]] = []
        self.passage_titles: list[list[str]] = []
        self.refused_query: str | None = None
        self.dropped = self.unread = 0
        self.branches: list[Trajectory] = []

    def hops(self) -> Generator[Draw | Search, Any, FinishReason]:
        """Turn by turn until the model stops or is stopped."""
        while True:
            if self.talk.room < self.options.max_turn_tokens + self.kept_free:
                return FinishReason.LENGTH
            written = yield from self.talk.write(
                "act", seed_of(self.seed, len(self.queries)), self.options.max_turn_tokens
            )
            turn = read_turn(written.text) if written.stopped else None
            if turn is None:
                return FinishReason.MALFORMED
            if self.queries:
                self.facts.append(turn.fact)
            if turn.query is None:
                return FinishReason.STOP
            if reason := self._refusal(turn.query):
                self.refused_query = turn.query
                return reason
            self.queries.append(turn.query)
            if not self._show((yield from self._found(turn.query))):
                return FinishReason.HOPS  # room for the answer is left

    def fields(self) -> dict[str, Any]:
        return {
            "queries": self.queries,
            "passage_ids": self.passage_ids,
            "passage_titles": self.passage_titles,
            "facts": self.facts,
            "hops": len(self.queries),
            "refused_query": self.refused_query,
            "empty_facts": self.facts.count(""),
            "dropped_passages": self.dropped,
            "unread_selections": self.unread,
        }

    def _refusal(self, query: str) -> FinishReason | None:
        if same_query(query) in map(same_query, self.queries):
            return FinishReason.REPEAT
        return FinishReason.HOPS if len(self.queries) == self.options.max_hops else None

    def _found(self, query: str) -> Generator[Draw | Search, Any, list[Passage]]:
        """The passages to show."""
        options = self.options
        count = options.retrieved if options.select else options.passages
        passages: list[Passage] = (yield Search(query, count))[:count]
        if not options.select:
            return passages
        neutral, seed = self.frame.neutral, seed_of(self.seed, len(self.queries), "select")
        passages, branch = yield from select(
            passages, neutral(query), self.question, seed, frame=self.frame, options=options
        )
        if branch:
            self.branches.append(branch)
            self.unread += not branch.fields["picked"]
        return passages

    def _show(self, passages: list[Passage]) -> bool:
        """Tell as many of the passages as fit, from the best on; False if there are some and none fits."""
        for count in range(len(passages), 0, -1) if passages else (0,):
            text = listed(passages[:count], self.options.passage) or self.options.nothing
            ids = self.talk.reply_ids(f"{SEARCH} {self.frame.neutral(text)}")
            if self.talk.room - len(ids) >= self.options.max_turn_tokens + self.kept_free:
                self.talk.tell(ids, "search")
                self._note(passages, count)
                return True
        self._note(passages, 0)
        return False

    def _note(self, passages: list[Passage], shown: int) -> None:
        self.passage_ids.append([passage.id for passage in passages[:shown]])
        self.passage_titles.append([passage.title for passage in passages[:shown]])
        self.dropped += len(passages) - shown
