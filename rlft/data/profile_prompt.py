"""The prompt of personalised generation: a user's past items, and the query. PrLM, arXiv 2508.07342.

One builder serves training and evaluation, so that both show the model the same. Past items stand before the query,
one a line, in the order they are given:

    Past items of this user:
    'text': '...' 'title': '...'

    As this user would, going by the past items, write the title of the text below. ...

    'text': '...'
"""

import inspect
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rlft.data.lamp_tasks import LampTask
from rlft.data.prompt_templates import PromptTemplates

Messages = list[dict[str, str]]

PLACEHOLDER = "..."
"""Stands for the answer where the prompt shows its form."""

SYSTEM = (
    "You write for one user, in that user's own way. Work out the user's habits from the past items, where there are "
    "any, and from what is asked now. Think between <think> and </think> first, then answer after </think>."
)


class ProfilePrompt:
    """Builds prompts of at most `max_tokens` tokens, chat template included.

    A prompt that is longer is cut in the long fields of its past items alone; targets, query and instructions stay
    whole. With F tokens without any long field, each of the k items may fill floor((max_tokens - F) / k) tokens, and
    what an item leaves of its share is added to the next one's.

    Args:
        task: wording and fields; or templates of your own.
        tokenizer: a fast tokenizer with a chat template.
        max_tokens: budget of the whole prompt, in tokens.
        system: text of the system turn; None leaves the turn out.
        over_budget: `cut`, or `error` to refuse a prompt that is too long.
        template_kwargs: settings of the chat template, such as `{"enable_thinking": False}`; those that the policy is
            trained, evaluated and asked for pairs with, since what they add counts.

    Raises:
        ValueError: if an option is out of range, the tokenizer has no chat template or is not a fast one, or its
            template does not read one of the settings.
    """

    def __init__(
        self,
        task: LampTask | PromptTemplates,
        tokenizer: Any,
        max_tokens: int = 3000,
        system: str | None = SYSTEM,
        over_budget: str = "cut",
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if over_budget not in ("cut", "error") or max_tokens < 1:
            raise ValueError(
                f"over_budget={over_budget!r}, max_tokens={max_tokens}: the one must be 'cut' or 'error', the other "
                "at least 1."
            )
        if not tokenizer.chat_template or not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} {tokenizer.name_or_path!r} lacks a chat template or is not a fast "
                "tokenizer; profile prompts need both."
            )
        self.template_kwargs: dict[str, Any] = dict(template_kwargs or {})
        """Settings of the chat template, for whatever tokenises these prompts."""
        _refuse_unread(self.template_kwargs, tokenizer)
        self.counts: Counter[str] = Counter()
        """`prompts` built, and how many of them were `cut`."""
        self._tokenizer, self._max_tokens, self._system, self._cuts = (
            tokenizer,
            max_tokens,
            system,
            over_budget == "cut",
        )
        self._user_turn = task.user_turn if isinstance(task, PromptTemplates) else partial(_lamp_turn, task)

    def messages(self, row: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Messages:
        """The conversation that asks one query.

        Args:
            row: with `id`, `query` and, for task 1, `input`.
            items: past items `{text, target}`, in the order shown. Without any there is no history block.

        Returns:
            A user turn, after the system turn if there is one.

        Raises:
            ValueError: with the row's id, if the prompt is too long and must not be cut, or if what is never cut
                leaves not one token for each item.
        """
        turns = self._turns(row, items, [item["text"] for item in items])
        excess = self._length(turns) - self._max_tokens
        self.counts["prompts"] += 1
        if excess <= 0:
            return turns
        if not self._cuts:
            raise ValueError(
                f"row {row['id']!r}: the prompt with {len(items)} past items has {self._max_tokens + excess} tokens, "
                f"max_tokens is {self._max_tokens}. Raise it, show fewer items, or set over_budget='cut'."
            )
        self.counts["cut"] += 1
        return self._cut(row, items)

    def _cut(self, row: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Messages:
        frame = self._length(self._turns(row, items, [""] * len(items)))
        room = self._max_tokens - frame
        while items and room >= len(items):
            turns = self._turns(row, items, self._shared([item["text"] for item in items], room))
            excess = self._length(turns) - self._max_tokens
            if excess <= 0:
                return turns
            room -= excess  # two texts may have more tokens side by side than apart
        raise ValueError(
            f"row {row['id']!r}: what is never cut (query, targets of {len(items)} past items, instructions) has "
            f"{frame} tokens, which leaves not one for the text of each item: max_tokens is {self._max_tokens}. Raise "
            "it, show fewer items, or leave the row out."
        )

    def _shared(self, texts: Sequence[str], room: int) -> list[str]:
        share, saved = room // len(texts), 0
        cut = []
        for text in texts:
            ends = self._token_ends(text)
            may = share + saved
            cut.append(text if len(ends) <= may else text[: ends[may - 1]])
            saved = may - min(may, len(ends))
        return cut

    def _token_ends(self, text: str) -> list[int]:
        """Where in `text` each of its tokens ends, in characters."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [end for _, end in encoded["offset_mapping"]]

    def _length(self, turns: Messages) -> int:
        ids = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False, **self.template_kwargs
        )
        return len(ids)

    def _turns(self, row: Mapping[str, Any], items: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> Messages:
        user = {"role": "user", "content": self._user_turn(row, items, texts)}
        return [user] if self._system is None else [{"role": "system", "content": self._system}, user]


def _refuse_unread(template_kwargs: Mapping[str, Any], tokenizer: Any) -> None:
    """A setting that the template never names would be passed over; an argument of the tokenizer's is no setting."""
    if not template_kwargs:
        return
    words = set(re.findall(r"\w+", tokenizer.get_chat_template()))
    arguments = inspect.signature(tokenizer.apply_chat_template).parameters
    unread = [name for name in template_kwargs if name not in words or name in arguments]
    if unread:
        raise ValueError(
            f"template_kwargs={dict(template_kwargs)}: the chat template of {type(tokenizer).__name__} "
            f"{tokenizer.name_or_path!r} does not read {', '.join(unread)}; leave that out (--chat_template_kwargs)."
        )


def _lamp_turn(task: LampTask, row: Mapping[str, Any], items: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> str:
    history = [_line(task, item, text) for item, text in zip(items, texts, strict=True)]
    block = "\n".join(["Past items of this user:", *history, "", ""]) if history else ""
    return f"{block}{_instruction(task, bool(history))}\n\n{_question(task, row)}"


def _line(task: LampTask, item: Mapping[str, Any], text: str) -> str:
    target = item.get("target")
    shown = f"'{task.input_word}': '{text}'"
    return shown if target is None else f"{shown} '{task.target}': '{target}'"


def _instruction(task: LampTask, history: bool) -> str:
    if task.marker is None:
        asked = "answer the question below"
    elif task.labels is not None:
        asked = f"choose the {task.answer_key} of the {task.query_word} below"
    elif task.target is not None:
        asked = f"write the {task.answer_key} of the {task.query_word} below"
    else:
        asked = f"paraphrase the {task.query_word} below"
    asked = f"As this user would, going by the past items, {asked}" if history else asked[0].upper() + asked[1:]
    how = "in English" if task.labels is None else f"with one of: {', '.join(task.labels)}"
    return f"{asked}. Answer {how}, and give nothing but {{'{task.answer_key}': '{PLACEHOLDER}'}}."


def _question(task: LampTask, row: Mapping[str, Any]) -> str:
    """The query under its word; of two references the whole input, which numbers them."""
    return row["input"] if task.marker is None else f"'{task.query_word}': '{row['query']}'"
