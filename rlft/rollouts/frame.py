"""A chat template as pieces of tokens, so that a conversation grows without tokenising the model's text again.

The template is rendered a few times with placeholders for what people and models say, and cut at them:

    head  USER  header  ASSISTANT  closing  USER  header ...

A user turn is tokenised as one text with the fixed pieces around it, as a training example would be; what the model
said stays the ids it sampled. Whatever a user turn says, the control tokens of the result are those of the pieces.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from rlft.rollouts.neutral import REMEMBERED, Neutraliser, encode

_SYSTEM, _USER, _ASSISTANT, _NEXT = "qzSYSTEMqz", "qzUSERqz", "qzASSISTANTqz", "qzNEXTqz"
_DELIMITER = re.compile(r"<<[^<>\s]+>>|<[^<>\s]+>|\[/?[A-Z_]+\]")
"""How templates spell the bounds of a turn where these are no special tokens."""


class ChatFrame:
    """The turns of a conversation for one tokenizer.

    Args:
        tokenizer: with a chat template.
        markers: the rollout's own control strings (`<QUERY>`, ...): a user turn may hold them, because the rollout
            writes them there; what comes from outside is to go through `neutral` first.
        template_kwargs: settings of the template, such as `{"enable_thinking": False}`.

    Attributes:
        neutral: breaks control strings, `markers` among them, in text from outside.
        end_id: the token that ends a turn of the model.
        stop_ids: tokens at which a generation has to stop: `end_id` and the tokenizer's end of sequence.

    Raises:
        ValueError: if there is no template, or one that cannot be cut into turns.
    """

    def __init__(
        self, tokenizer: Any, markers: Iterable[str] = (), template_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "the tokenizer has no chat template, so nothing says where a turn begins and ends; set "
                "tokenizer.chat_template, or start from an instruction-tuned checkpoint."
            )
        self.tokenizer = tokenizer
        self.markers = tuple(markers)
        self._settings = dict(template_kwargs or {})
        opening = self._cut([("user", _USER)], [_USER])
        history = [("user", _USER), ("assistant", _ASSISTANT), ("user", _NEXT)]
        _, before_assistant, *closing = self._cut(history, [_USER, _ASSISTANT, _NEXT])
        self._opening, self._closing = opening, closing
        try:
            self._with_system = self._cut([("system", _SYSTEM), ("user", _USER)], [_SYSTEM, _USER])
        except ValueError as error:
            self._with_system, self._no_system = [], str(error)
        self._trims = f"\t{_USER}" not in self._render([("user", f"\t{_USER}")])
        delimiters = _DELIMITER.findall("".join([*opening, *closing, *self._with_system]))
        self.neutral = Neutraliser(tokenizer, [*delimiters, *self.markers])
        self._turns = Neutraliser(tokenizer, delimiters, allowed=self.markers)
        # Templates such as Mistral's put a blank before what the assistant says; the model writes it itself.
        blank = before_assistant.removeprefix(opening[-1])
        self._lead = blank if blank.isspace() else ""
        self._known: dict[tuple[str, ...], list[int]] = {}
        self._remembered = lru_cache(REMEMBERED)(self._join)
        self._closes_with_end, self.end_id = self._end_of_turn()
        self.stop_ids = frozenset({self.end_id, tokenizer.eos_token_id} - {None})

    def opening(self, user_text: str, system: str | None = None) -> list[int]:
        """Ids of the conversation up to where the model begins: head, system text, first user turn, header.

        Raises:
            ValueError: if there is a system text and the template has no place for it.
        """
        if system is None:
            return self._joined(self._opening, user_text)
        if not self._with_system:
            raise ValueError(f"{self._no_system} Put the system text into the first user message instead.")
        return self._joined(self._with_system, system, user_text)

    def reply(self, user_text: str, after: Sequence[int]) -> list[int]:
        """Ids from the end of the model's turn to where its next one begins.

        Args:
            user_text: what the user says.
            after: ids of the model's turn. If they end with `end_id`, it is not said again.
        """
        ids = self._joined(self._closing, user_text)
        said = self._closes_with_end and bool(after) and after[-1] == self.end_id
        return ids[ids.index(self.end_id) + 1 :] if said else ids

    def turn_ids(self, text: str) -> list[int]:
        """Ids of a turn of the model that says `text`, as after a header, and `end_id`; it may hold `markers`.

        Raises:
            ValueError: if there is nothing in it: no tokens, or only unknown ones.
        """
        header = encode(self.tokenizer, self._opening[-1])
        said = self._lead + self._turns(text.strip())
        ids = encode(self.tokenizer, self._opening[-1] + said)
        ids = ids[len(header) :] if ids[: len(header)] == header else encode(self.tokenizer, said)
        if not text.strip() or not set(ids) - {self.tokenizer.unk_token_id}:
            raise ValueError(
                f"the turn or answer {text!r} holds no token that the tokenizer knows, so its likelihood would say "
                "nothing; correct the row or leave it out. (An embedded tiny/ model knows the words of its own world: "
                "other words need another --model_name_or_path.)"
            )
        return [*ids, self.end_id]

    def answer_ids(self, text: str) -> list[int]:
        """Ids of a turn of the model that gives a gold answer: `turn_ids` of the neutralised text.

        Raises:
            ValueError: as `turn_ids`.
        """
        return self.turn_ids(self.neutral(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a turn of the model without the token that stopped it; other special tokens stay visible."""
        words = list(ids[:-1] if ids and ids[-1] in self.stop_ids else ids)
        return str(self.tokenizer.decode(words, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _render(self, messages: Sequence[tuple[str, str]]) -> str:
        conversation = [{"role": role, "content": content} for role, content in messages]
        text = self.tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True, **self._settings
        )
        return str(text)

    def _cut(self, messages: Sequence[tuple[str, str]], placeholders: Sequence[str]) -> list[str]:
        roles = [role for role, _ in messages]
        try:
            rest = self._render(messages)
        except TemplateError as error:
            raise ValueError(f"tokenizer.chat_template does not render {roles}: {error}.") from error
        pieces = []
        for placeholder in placeholders:
            if rest.count(placeholder) != 1:
                raise ValueError(
                    f"tokenizer.chat_template shows a message {rest.count(placeholder)} times when it renders {roles}; "
                    "each must appear once, in order, as it is."
                )
            piece, rest = rest.split(placeholder)
            pieces.append(piece)
        return [*pieces, rest]

    def _joined(self, pieces: Sequence[str], *contents: str) -> list[int]:
        """Ids of fixed pieces with contents between them; the control tokens are those of the pieces alone."""
        return list(self._remembered(tuple(pieces), *contents))

    def _join(self, pieces: tuple[str, ...], *contents: str) -> list[int]:
        contents = tuple(self._turns(text.strip() if self._trims else text) for text in contents)
        parts = [part for pair in zip(pieces, contents, strict=False) for part in pair] + [pieces[-1]]
        ids = encode(self.tokenizer, "".join(parts))
        if self._turns.controls_among(ids) == self._fixed_controls(pieces):
            return ids
        return [token for part in parts for token in encode(self.tokenizer, part)]

    def _fixed_controls(self, pieces: tuple[str, ...]) -> list[int]:
        if pieces not in self._known:
            ids = [token for piece in pieces for token in encode(self.tokenizer, piece)]
            self._known[pieces] = self._turns.controls_among(ids)
        return self._known[pieces]

    def _end_of_turn(self) -> tuple[bool, int]:
        """Whether what closes the model's turn begins with a control token (blanks aside), and the id that ends it."""
        ids = encode(self.tokenizer, self._closing[0])
        for place, token in enumerate(ids):
            if token in self._turns.control_ids and not self.tokenizer.decode(ids[:place]).strip():
                return True, token
        if self.tokenizer.eos_token_id is None:
            raise ValueError(
                "tokenizer.chat_template ends the assistant's turn with no special token and the tokenizer has no "
                "eos_token, so a generation could not stop; set tokenizer.eos_token."
            )
        return False, self.tokenizer.eos_token_id
