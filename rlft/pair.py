"""A selector and a generator that were trained together, for use: choose passages, and answer from them.

    pair = DROPair.load("runs/dro-1")
    best = [passages[place] for place in pair.select(question, passages)]
    answer = pair.answer(question, passages)

As a retriever, `selected(retriever="bm25(corpus='corpus.jsonl')", pair="runs/dro-1")` finds more passages with another
one and gives those that the selector chooses among them.
"""

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlft.pair_folder import GENERATOR, PAIR, SELECTOR, PairFolder, read_pair_folder
from rlft.record.stages import digest
from rlft.retrieval import Passage, RetrievalError, Retriever, load_retriever
from rlft.retrieval.passage import refuse_bad_request
from rlft.retrieval.rows import title_and_text
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.permutation import PermutationRollout
from rlft.rollouts.policy import GREEDY, Policy
from rlft.rollouts.ranking import filled_up
from rlft.rollouts.reading import AnswerRollout
from rlft.rollouts.tokens import pad_id_of
from rlft.rollouts.transformers_policy import TransformersPolicy
from rlft.saved import SAFETENSORS, refuse_pickles

PassageLike = Passage | Mapping[str, Any] | str
"""A `Passage`, an object with `text` (or `contents`) and at will `title`, or a text."""


@dataclass(frozen=True, slots=True)
class Half:
    """The selector or the generator."""

    frame: ChatFrame
    policy: Policy
    model: Any = None
    """What the policy samples, if `adapter` must be switched on in it first."""
    adapter: str | None = None

    def ready(self) -> Policy:
        """The policy, with its adapter switched on."""
        if self.adapter is not None:
            self.model.set_adapter(self.adapter)
        return self.policy


class DROPair:
    """Chooses and answers, greedily. Several threads may use one: its calls wait for each other.

    Args:
        saved: what the run's folder holds.
        selector, generator: the models.
    """

    def __init__(self, saved: PairFolder, selector: Half, generator: Half) -> None:
        self.saved, self.selector, self.generator = saved, selector, generator
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        batch_size: int = 8,
        trust_remote_code: bool = False,
    ) -> "DROPair":
        """Load what a DRO run left.

        Args:
            folder: the run's folder, with `pair.json`, `selector/` and `generator/`.
            device: where the models go; None takes the GPU if there is one.
            dtype: of the weights; None takes the checkpoint's.
            batch_size: questions read together.
            trust_remote_code: run code that comes with the base.

        Returns:
            The pair. Two adapters of one base share one copy of it.

        Raises:
            ValueError: if the folder is no pair, before a model is loaded; or `batch_size` is below 1.
        """
        saved = read_pair_folder(Path(folder))
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        halves = {}
        settings: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        models = _models(saved, settings | SAFETENSORS | ({} if dtype is None else {"dtype": dtype}))
        for role, (model, adapter) in models.items():
            place = saved.tokenizers[role]
            which = _revision(saved, role) if place == saved.models[role] else {}
            tokenizer = AutoTokenizer.from_pretrained(place, **settings, **which)
            frame = ChatFrame(tokenizer, template_kwargs=saved.template_kwargs)
            policy = TransformersPolicy(model.to(device).eval(), frame.stop_ids, pad_id_of(tokenizer), batch_size)
            halves[role] = Half(frame, policy, model, adapter)
        return cls(saved, halves[SELECTOR], halves[GENERATOR])

    @cached_property
    def digest(self) -> str:
        """Of `pair.json` and all files of both halves: another pair has another one, wherever it lies."""
        found = [path for role in (SELECTOR, GENERATOR) for path in (self.saved.folder / role).rglob("*")]
        files = [self.saved.folder / PAIR, *sorted(path for path in found if path.is_file())]
        listed = "\n".join(f"{path.relative_to(self.saved.folder)} {digest(path)}" for path in files)
        return hashlib.blake2b(listed.encode(), digest_size=16).hexdigest()

    def select(self, question: str, passages: Sequence[PassageLike]) -> list[int]:
        """The passages to answer from.

        Args:
            question: not empty.
            passages: candidates, shown in this order, as many as fit in `max_tokens` of `pair.json`.

        Returns:
            Places (from 0) of the K that the selector chooses, best first. A list that it writes untidily is read as
            far as possible and filled up in the given order. Of K or fewer passages all come back, in its order; one
            or none is not shown to it.

        Raises:
            ValueError: for a question or a passage without text, or passages that are too long together.
        """
        return self.select_all([question], [passages])[0]

    def answer(self, question: str, passages: Sequence[PassageLike]) -> str:
        """The generator's answer from the passages that `select` gives; arguments and errors as there."""
        return self.answer_all([question], [passages])[0]

    def read(self, question: str, passages: Sequence[PassageLike]) -> str:
        """The generator's answer from all these passages in this order; from memory if there are none.

        Raises:
            ValueError: as `select`.
        """
        return self.read_all([question], [passages])[0]

    def select_all(self, questions: Sequence[str], passage_lists: Sequence[Sequence[PassageLike]]) -> list[list[int]]:
        """`select` for many questions, read in batches."""
        lists = _passages_of_all(questions, passage_lists)
        chosen = [list(range(len(passages))) for passages in lists]
        by_size: dict[int, list[int]] = {}
        for number, passages in enumerate(lists):
            if len(passages) > 1:
                by_size.setdefault(min(len(passages), self.saved.lists.size), []).append(number)
        for size, numbers in by_size.items():
            rows = [_row(number, questions[number], candidates=lists[number]) for number in numbers]
            options = replace(self.saved.lists, size=size, invalid="pad")
            with self._lock:
                found = PermutationRollout(self.selector.frame, options)(rows, self.selector.ready(), GREEDY)
            for number, trajectory in zip(numbers, found, strict=True):
                chosen[number] = trajectory.fields["list"]
        return chosen

    def answer_all(self, questions: Sequence[str], passage_lists: Sequence[Sequence[PassageLike]]) -> list[str]:
        """`answer` for many questions, read in batches."""
        lists = _passages_of_all(questions, passage_lists)
        chosen = self.select_all(questions, lists)
        pairs = zip(lists, chosen, strict=True)
        return self.read_all(questions, [[passages[place] for place in places] for passages, places in pairs])

    def read_all(self, questions: Sequence[str], passage_lists: Sequence[Sequence[PassageLike]]) -> list[str]:
        """`read` for many questions, read in batches."""
        lists = _passages_of_all(questions, passage_lists)
        rows = [_row(number, questions[number], passages=passages) for number, passages in enumerate(lists)]
        with self._lock:
            found = AnswerRollout(self.generator.frame, self.saved.reading)(rows, self.generator.ready(), GREEDY)
        return [trajectory.fields["answer"] for trajectory in found]


class SelectedRetriever:
    """The passages that a pair's selector chooses among those of another retriever.

    Args:
        retriever: what finds passages; an object, or a spec as `load_retriever` takes it.
        pair: what chooses; an object, or its folder.
        retrieved: passages that are found for a query and shown to the selector.

    A search gives the selector's choice, best first, and where more than its K are wanted the others after them in the
    retriever's order. Scores are the retriever's own, so they need not fall.

    Raises:
        ValueError: if `retrieved` is below 1, or the pair cannot be loaded.
    """

    def __init__(self, retriever: str | Retriever, pair: str | os.PathLike[str] | DROPair, retrieved: int = 20) -> None:
        if isinstance(retrieved, bool) or not isinstance(retrieved, int) or retrieved < 1:
            raise ValueError(f"retrieved={retrieved!r} passages to choose from; it must be an integer of at least 1.")
        self._retriever = load_retriever(retriever)
        self._pair = pair if isinstance(pair, DROPair) else DROPair.load(pair)
        self._retrieved = retrieved
        self.name = f"selected({self._retriever.name}, pair={self._pair.digest[:16]}, retrieved={retrieved})"

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """As `Retriever.search`.

        Raises:
            RetrievalError: from the retriever; or if the selector cannot read a query or its passages.
        """
        refuse_bad_request(queries, k)
        found = self._retriever.search(queries, max(k, self._retrieved))
        try:
            chosen = self._pair.select_all(queries, [passages[: self._retrieved] for passages in found])
        except ValueError as error:
            raise RetrievalError(
                f"the selector cannot choose among retrieved={self._retrieved} passages ({error}); lower retrieved if "
                "they are too long together"
            ) from error
        orders = [filled_up(places, len(passages))[:k] for places, passages in zip(chosen, found, strict=True)]
        return [[passages[place] for place in order] for order, passages in zip(orders, found, strict=True)]


def _models(saved: PairFolder, settings: dict[str, Any]) -> dict[str, tuple[Any, str | None]]:
    """The model of each role, and which of its adapters that is where it has both."""
    folders = {role: str(saved.folder / role) for role in (SELECTOR, GENERATOR)}
    if not saved.adapters:
        return {role: (AutoModelForCausalLM.from_pretrained(path, **settings), None) for role, path in folders.items()}
    if not saved.one_base:
        bases = {role: _base(saved, role, settings) for role in folders}
        return {role: (PeftModel.from_pretrained(bases[role], path), None) for role, path in folders.items()}
    base = _base(saved, SELECTOR, settings)
    both = PeftModel.from_pretrained(base, folders[SELECTOR], adapter_name=SELECTOR)
    both.load_adapter(folders[GENERATOR], adapter_name=GENERATOR)
    return {role: (both, role) for role in folders}


def _base(saved: PairFolder, role: str, settings: dict[str, Any]) -> Any:
    refuse_pickles(saved.models[role])
    return AutoModelForCausalLM.from_pretrained(saved.models[role], **_revision(saved, role), **settings)


def _revision(saved: PairFolder, role: str) -> dict[str, Any]:
    revision = saved.revisions[role]
    return {} if revision is None else {"revision": revision}


def _row(number: int, question: str, **columns: Any) -> dict[str, Any]:
    return {"id": f"question {number}", "question": question, **columns}


def _passages_of_all(questions: Sequence[str], passage_lists: Sequence[Sequence[PassageLike]]) -> list[list[Passage]]:
    if isinstance(questions, str) or len(questions) != len(passage_lists):
        said = "one text" if isinstance(questions, str) else f"{len(questions)} questions"
        raise ValueError(f"{said} and {len(passage_lists)} lists of passages; give one list for each question.")
    return [
        [_passage(one, f"question {number}, passage {place}", place) for place, one in enumerate(_listed(passages))]
        for number, passages in enumerate(passage_lists)
    ]


def _listed(passages: Sequence[PassageLike]) -> Sequence[PassageLike]:
    if isinstance(passages, str | Mapping):
        raise ValueError(f"passages is one {type(passages).__name__}; give a list of them.")
    return passages


def _passage(given: PassageLike, name: str, place: int) -> Passage:
    if isinstance(given, Passage):
        return given
    if not isinstance(given, str | Mapping):
        raise ValueError(f"{name} is a {type(given).__name__}, neither a Passage nor an object with text nor a text.")
    try:
        title, text = ("", given) if isinstance(given, str) else title_and_text(given)
    except ValueError as error:
        raise ValueError(f"{name}: {error}.") from error
    if not text.strip():
        raise ValueError(f"{name} has no text: {given!r}.")
    return Passage(str(place), title, text, 0.0)
