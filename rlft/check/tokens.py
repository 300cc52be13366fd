"""The section on tokens: what completions stop at, what pads, the chat template, and how long prompts are."""

from collections.abc import Sequence
from typing import Any

from rlft.check.recipes import Parsed
from rlft.check.subject import Subject
from rlft.check.text import Look, section
from rlft.checks import MISSING, Checks
from rlft.preflight_prompts import positions_of, prompt_lengths, stop_ids
from rlft.rollouts.frame import ChatFrame
from rlft.tiny import tasks
from rlft.tiny.skeleton import skeleton

MEASURED = 1000
"""Prompts whose tokens are counted, the longest in characters."""


def look_at_tokens(seen: Look, run: Parsed, subject: Subject, checks: Checks) -> int:
    """Section on tokens; the longest prompt."""
    tokenizer = subject.inputs.tokenizer
    if tokenizer is MISSING:
        return 0
    stops = stop_ids(tokenizer, _generation_config(run))
    rows = [("stops at", ", ".join(_stop(tokenizer, token, names) for token, names in stops.items()) or "nothing")]
    rows.append(("pads with", _pad(tokenizer, stops)))
    written = _template(subject, tokenizer, stops, checks) if subject.template else "not used: the model reads texts"
    rows.append(("chat template", written))
    lengths = checks.of("prompts", _lengths, subject, subject.prompts, tokenizer)
    if lengths is MISSING:
        lengths = []
    if lengths:
        positions = None if subject.inputs.config is MISSING else positions_of(subject.inputs.config)
        room = "" if positions is None else f"; positions {positions:,}, completions up to {subject.sample_tokens:,}"
        rows.append(("prompts", f"{len(subject.prompts):,}; the longest has {max(lengths):,} tokens{room}"))
    seen.add(section("Tokens", rows), stop_ids=sorted(stops), longest_prompt=max(lengths, default=None))
    return max(lengths, default=0)


def _lengths(subject: Subject, prompts: Sequence[Any], tokenizer: Any) -> list[int]:
    """Tokens of the longest prompts."""
    longest = sorted(prompts, key=lambda prompt: len(str(prompt)), reverse=True)[:MEASURED]
    return prompt_lengths(longest, tokenizer, subject.template_kwargs)


def _generation_config(run: Parsed) -> Any:
    from transformers import GenerationConfig

    name = str(run.model.model_name_or_path)
    if name in tasks.TASKS:
        return skeleton(name)[0].generation_config
    try:
        return GenerationConfig.from_pretrained(name, revision=run.model.model_revision)
    except OSError:  # a model need not have one
        return None


def _stop(tokenizer: Any, token: int, names: Sequence[str]) -> str:
    return f"{tokenizer.convert_ids_to_tokens(token)} ({token}, {' and '.join(names)})"


def _pad(tokenizer: Any, stops: Any) -> str:
    if tokenizer.pad_token_id is None:
        return f"{tokenizer.eos_token}, the end token: there is no pad token" if tokenizer.eos_token else "nothing"
    same = ", which also ends completions; masks go by length, so that ends are learnt"
    return f"{tokenizer.pad_token} ({tokenizer.pad_token_id}){same if tokenizer.pad_token_id in stops else ''}"


def _template(subject: Subject, tokenizer: Any, stops: Any, checks: Checks) -> str:
    """What ends a turn, and whether a completion stops there."""
    if not tokenizer.chat_template:
        return "none"
    try:
        end = ChatFrame(tokenizer, (), subject.template_kwargs).end_id
    except ValueError as error:
        return f"there; where a turn ends in it cannot be seen: {error}"
    token = tokenizer.convert_ids_to_tokens(end)
    if end not in stops:
        checks.warn(
            "stop ids",
            f"the chat template ends a turn with {token}, at which no completion stops: they would run to their "
            "longest. Set tokenizer.eos_token to it, or add its id to eos_token_id of generation_config.json.",
        )
    return f"there; a turn ends with {token}"
