"""EXSEARCH: an EM loop that teaches a language model to search (arXiv 2505.20128).

A trajectory z (think of a query, search, record a fact, ..., stop) is latent between question x and answer y:

    p(y|x) = sum_z p(z|x) p(y|x,z)                                                                     (2)

Round t, from weights theta (algorithm 1 of the paper):

    E   z_k ~ p(z | x; theta), k = 1..K                                 sample   rlft.rollouts.search
        s_k = log p(y | x, z_k; theta)                                  score    rlft.em.score
        w_k = exp s_k / sum_j exp s_j                              (4)  weigh    rlft.em.weights
    M   maximise sum_x sum_k w_k [log p(z_k|x) + log p(y|x,z_k)]   (5)  learn    rlft.em.weighted_sft
    V   dev trajectories with the answer sampled                        validate rlft.evaluate.search_metrics

The best round by a dev metric is the result. Stages speak through files only (rlft.em.stages), so a killed run goes on
where it stopped. Left out: the paper's warm-up data, made with a closed model; any conversations in the format of
`rlft.rollouts.search` serve as `warm_up_dataset`.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from torch import nn
from transformers import AutoTokenizer

from rlft.em.options import EMOptions
from rlft.em.stages import Round
from rlft.retrieval.passage import Retriever
from rlft.rollouts.search_text import MARKERS
from rlft.trainers.em_config import EMConfig
from rlft.trainers.em_trainer import EMTrainer, fingerprint, tokenizer_fingerprint
from rlft.trainers.exsearch_learning import SearchLearning
from rlft.trainers.exsearch_steps import Metrics, SearchSteps
from rlft.trainers.rolls import Rolls, Row
from rlft.trainers.round_models import RoundModels
from rlft.trainers.search_checks import check_demonstrations, check_questions, check_room
from rlft.trainers.search_options import SearchTrainingOptions


@dataclass
class ExSearchConfig(SearchTrainingOptions, EMConfig):
    """`EMConfig` with the options of the search.

    Raises:
        ValueError: for a value out of its range.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_search()


class ExSearchTrainer(EMTrainer):
    """Teaches a model to search by EM.

    Args:
        model: folder or Hub id of a causal LM with a chat template.
        args: an `ExSearchConfig`.
        train_dataset: rows `{id, question, golden_answers}`, more columns welcome.
        eval_dataset: dev rows that choose the best round.
        retriever: what searches.
        processing_class: tokenizer; the model's own if None.
        peft_config: LoRA; None trains all parameters.
        warm_up_dataset: rows `{messages}` of demonstrations, learnt before round 1 (section 4.1 of the paper).
        model_init_kwargs: for `from_pretrained`.
        metrics: `f(row, trajectory) -> {name: value}`, further dev metrics, averaged over trajectories.
        callbacks: of every M-step.
        on_round: `f(number, dev metrics)`, called after each round on the main process.

    Raises:
        ValueError: for data that cannot be trained on, before a model is loaded.
    """

    options = (EMOptions, SearchTrainingOptions)

    def __init__(
        self,
        model: str,
        args: ExSearchConfig,
        *,
        train_dataset: Dataset,
        eval_dataset: Dataset,
        retriever: Retriever,
        processing_class: Any = None,
        peft_config: Any = None,
        warm_up_dataset: Dataset | None = None,
        model_init_kwargs: dict[str, Any] | None = None,
        metrics: Metrics | None = None,
        callbacks: list[Any] | None = None,
        on_round: Callable[[int, dict[str, float]], None] | None = None,
    ):
        args.check_sampler(peft_config)
        super().__init__(args, train_dataset, eval_dataset, on_round)
        tokenizer = processing_class or AutoTokenizer.from_pretrained(model)
        self.retriever, self.processing_class, self.warm_up_dataset = retriever, tokenizer, warm_up_dataset
        given: Any = args.model_init_kwargs or {}
        self.models = RoundModels(model, peft_config, {**given, **(model_init_kwargs or {})}, args.device)
        self.steps = SearchSteps(Rolls(args, tokenizer, self.models, MARKERS), retriever, metrics)
        self.learning = SearchLearning(self.steps, self.models, callbacks or [])
        check_room(self.models.config(), args)
        self.check_rows(train_dataset, "train_dataset")
        self.check_rows(eval_dataset, "eval_dataset")
        check_demonstrations(warm_up_dataset or [], self.steps.rolls.frame)

    def check_rows(self, rows: Dataset, name: str) -> None:
        """Refuse questions that no trajectory could be scored on with a ValueError."""
        check_questions(rows, self.steps, name)

    def start(self, current: Round) -> None:
        """The base, after its warm-up if there is one."""
        learning = self.learning
        current.stage("start", lambda: learning.start(current, self.warm_up_dataset), *learning.files)
        learning.tidy(current)

    def step(self, current: Round, before: Round, origin: Round, rows: Sequence[Row]) -> None:
        """Sample, score, weigh, gather, learn."""
        steps, learning = self.steps, self.learning
        current.stage("sample", lambda: steps.sample(current, before, rows), "trajectories-*")
        current.stage("score", lambda: steps.score(current, before, rows), "scores-*")
        current.stage("weigh", lambda: steps.weigh(current, rows), "weights.jsonl", "weights.json")
        current.stage("gather", lambda: learning.gather(current, rows), "rows.arrow", "rows.json")
        current.stage("learn", lambda: learning.learn(current, origin), *learning.files, learning.report_file)
        learning.tidy(current)

    def validate(self, current: Round, name: str, rows: Sequence[Row]) -> None:
        """Metrics of trajectories with the answer sampled."""
        self.steps.validate(current, name, rows)

    def best_model(self) -> nn.Module:
        """The model of the best round, loaded from its folder."""
        return self.models.load(self.folder / f"round-{self.best}")

    def save_model(self, output_dir: str | None = None) -> None:
        """Copy the best round's adapter (or model) and the tokenizer to a folder, by default the run's."""
        target = Path(output_dir or self.folder)
        if PartialState().is_main_process:
            target.mkdir(parents=True, exist_ok=True)
            self.processing_class.save_pretrained(target)
            source = self.folder / f"round-{self.best}"
            for file in (found for pattern in self.learning.files for found in source.glob(pattern)):
                shutil.copyfile(file, target / file.name)
        PartialState().wait_for_everyone()

    def identity(self) -> dict[str, Any]:
        """Model, tokenizer, retriever and demonstrations."""
        return {
            "lora": self.models.peft_config.to_dict() if self.models.peft_config else None,
            "model": self.models.fingerprint(),
            "tokenizer": tokenizer_fingerprint(self.processing_class),
            "retriever": self.retriever.name,
            "warm_up_rows": fingerprint(list(self.warm_up_dataset or [])),
        }
