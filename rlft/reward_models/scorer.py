"""A trained scorer: s(q, y) or s(q, R, y) for batches, each content scored once.

Legend: B answers.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlft.reward_models.encode import Encoded, ScorerText, is_encoder
from rlft.reward_models.folder import ScorerError, check_tokenizer, read_scorer_folder
from rlft.reward_models.forward import Forward, batches
from rlft.reward_models.spec import ScorerSpec
from rlft.reward_models.users import Item


class Scorer:
    """Scores answers with a model whose weights no longer change.

    Args:
        model: a sequence-classification model of transformers with one output, bare or with a PEFT adapter. It is put
            in evaluation mode and frozen.
        tokenizer: the one it was trained with.
        spec: what it reads.
        batch_tokens: tokens of a batch, padding included; bounds memory.
        cache_size: scores that are kept, the latest used; a score takes about 200 bytes.

    Attributes:
        hits: answers whose score was known, or stood in the same call already.
        misses: answers that the model read.

    Raises:
        ScorerError: if the model has more outputs or fewer positions than `max_length`, or the tokenizer does not fit.
    """

    def __init__(
        self, model: Any, tokenizer: Any, spec: ScorerSpec, *, batch_tokens: int = 16_384, cache_size: int = 100_000
    ) -> None:
        check_model(model, tokenizer, spec)
        if batch_tokens < 1 or cache_size < 1:
            raise ScorerError(f"batch_tokens={batch_tokens} and cache_size={cache_size} must be at least 1.")
        self.model, self.spec = model.eval().requires_grad_(False), spec
        self.text = ScorerText(tokenizer, spec, is_encoder(model, tokenizer))
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        self.hits = self.misses = 0
        self._batch_tokens, self._cache_size = batch_tokens, cache_size
        types = self.text.encoder and "token_type_ids" in tokenizer.model_input_names
        self._forward = Forward(self.model, tokenizer.pad_token_id, types, self.text.encoder)
        self._known: OrderedDict[bytes, float] = OrderedDict()

    @classmethod
    def load(
        cls, folder: str | Path, *, task: str | None = None, device: str | torch.device | None = None, **settings: Any
    ) -> "Scorer":
        """Load a folder that `save_scorer` wrote, in fp32.

        Args:
            folder: the folder.
            task: that is to be scored; None takes any.
            device: None takes the current GPU, or the CPU where there is none.
            **settings: `batch_tokens`, `cache_size`.

        Raises:
            ScorerError: for a folder that is incomplete, of another task, or with another tokenizer.
        """
        found = read_scorer_folder(folder, task)
        tokenizer = AutoTokenizer.from_pretrained(str(found.folder))
        check_tokenizer(found, tokenizer)
        source = found.adapter_base or str(found.folder)
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, dtype=torch.float32, use_safetensors=True
        )
        if found.adapter_base is not None:
            model = PeftModel.from_pretrained(model, str(found.folder))
        if device is None:
            device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"
        return cls(model.to(device), tokenizer, found.spec, **settings)

    def score(self, queries: Sequence[str], profiles: Sequence[Sequence[Item]], answers: Sequence[str]) -> Tensor:
        """Scores s: sigmoid(s+ - s-) is the probability that training gave to s+ being the chosen one.

        The same content has the same score within a call and for as long as it is kept; in other company it may differ
        by the rounding of padded batches.

        Args:
            queries: B questions.
            profiles: B lists of items, as the policy was shown them; the blind form reads none of them.
            answers: B answers, extracted from their completions.

        Returns:
            (B,) fp32 on the CPU.

        Raises:
            ScorerError: for another number of profiles or answers than questions, or an answer without tokens.
            TooLong: see `ScorerText.encode`.
            FloatingPointError: for a score that is no finite number.
        """
        scores = self._scores(queries, profiles, answers, skip=False)
        return torch.tensor(scores, dtype=torch.float32)

    def score_what_fits(
        self, queries: Sequence[str], profiles: Sequence[Sequence[Item]], answers: Sequence[str]
    ) -> list[float | None]:
        """As `score`, but None for an answer without tokens, or one for which there is no room."""
        return self._scores(queries, profiles, answers, skip=True)

    def _scores(
        self, queries: Sequence[str], profiles: Sequence[Sequence[Item]], answers: Sequence[str], skip: bool
    ) -> list[Any]:
        if not len(queries) == len(profiles) == len(answers):
            raise ScorerError(
                f"{len(queries)} questions, {len(profiles)} profiles and {len(answers)} answers; one each is needed."
            )
        texts = self.text.all_texts(queries, profiles, answers)
        keys = [_key(one) for one in texts]
        unread = {key: one for key, one in zip(keys, texts, strict=True) if key not in self._known}
        self.text.tokenize(text for of_key in unread.values() for text in of_key)
        encoded = {key: one for key, of_key in unread.items() if (one := self._encoded(of_key, skip)) is not None}
        scores = {key: self._known[key] for key in keys if key in self._known} | self._read(encoded)
        self.hits += sum(key in scores for key in keys) - len(encoded)
        self.misses += len(encoded)
        self._keep(scores)
        return [scores.get(key) for key in keys]

    def _encoded(self, texts: tuple[str, str, str], skip: bool) -> Encoded | None:
        try:
            return self.text.encode(texts)
        except ScorerError:
            if not skip:
                raise
            return None

    def _read(self, encoded: dict[bytes, Encoded]) -> dict[bytes, float]:
        scores: dict[bytes, float] = {}
        for batch in batches(encoded, self._batch_tokens):
            scores_B = self._forward([encoded[key] for key in batch]) / self.spec.temperature
            if not scores_B.isfinite().all():
                place = int((~scores_B.isfinite()).nonzero()[0])
                text = self.text.tokenizer.decode(encoded[batch[place]].ids)
                raise FloatingPointError(
                    f"the scorer gave {scores_B[place].item()} for {text[:200]!r}; its weights are damaged or its "
                    "training diverged: audit it, and train it again with a lower learning rate."
                )
            scores.update(zip(batch, scores_B.tolist(), strict=True))
        return scores

    def _keep(self, scores: dict[bytes, float]) -> None:
        for key, score in scores.items():
            self._known[key] = score
            self._known.move_to_end(key)
        while len(self._known) > self._cache_size:
            self._known.popitem(last=False)


def check_model(model: Any, tokenizer: Any, spec: ScorerSpec) -> None:
    """Refuse a model that cannot be a scorer.

    Raises:
        ScorerError: if it has more than one output, fewer positions than `max_length`, or a smaller vocabulary than
            the tokenizer.
    """
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if model.config.num_labels != 1:
        raise ScorerError(
            f"the model has {model.config.num_labels} outputs; a scorer has one: load it with num_labels=1."
        )
    if positions is not None and spec.max_length > positions:
        raise ScorerError(f"max_length={spec.max_length}, but the model has {positions} positions; lower max_length.")
    if max(tokenizer.get_vocab().values()) >= config.vocab_size:
        raise ScorerError(
            f"the tokenizer's ids go up to {max(tokenizer.get_vocab().values())}, but the model's vocabulary has "
            f"{config.vocab_size} tokens; give the model its own tokenizer."
        )


def _key(texts: tuple[str, str, str]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
    return digest.digest()
