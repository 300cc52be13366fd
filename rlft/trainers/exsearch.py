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

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from torch import nn
from transformers import AutoTokenizer
from trl import SFTConfig

from rlft.em.options import EMOptions
from rlft.em.rounds import best_round, questions_of, run_rounds
from rlft.em.stages import Round, canonical, claim_identity
from rlft.retrieval.passage import Retriever
from rlft.trainers.exsearch_learning import WEIGHT_FILES, SearchLearning
from rlft.trainers.exsearch_steps import Metrics, SearchSteps
from rlft.trainers.round_models import RoundModels
from rlft.trainers.search_checks import check_demonstrations, check_questions, check_room
from rlft.trainers.search_options import SearchTrainingOptions
from rlft.trainers.search_rolls import SearchRolls

OF_TRAINING = (
    "seed", "data_seed", "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs",
    "warmup_steps", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
    "neftune_noise_alpha", "bf16", "fp16", "train_sampling_strategy",
)  # fmt: skip
"""Settings of the M-step that decide what is learnt."""
FREE_TO_CHANGE = {
    "num_rounds", "patience", "sampler_batch_size", "sampler_url", "sampler_memory", "sampler_timeout",
    "sampler_keep_tokens",
    "score_batch_tokens",
}  # fmt: skip
"""Settings of EM and of the search that a run may go on with changed."""


@dataclass
class ExSearchConfig(SearchTrainingOptions, EMOptions, SFTConfig):
    """`trl.SFTConfig` for the M-step, with the options of EM and of the search.

    `num_train_epochs`, `learning_rate`, `per_device_train_batch_size` and the like are those of one M-step; each starts
    a fresh optimiser and schedule.

    Raises:
        ValueError: for a value out of its range.
    """

    num_train_epochs: float = field(default=2.0, metadata={"help": "Passes over a round's rows in its M-step."})
    max_length: int | None = field(default=None, metadata={"help": "Must stay None: `max_tokens` refuses, never cuts."})
    metric_for_best_model: str | None = field(
        default="greedy_em",
        metadata={
            "help": "Dev metric that chooses the round: greedy_em, greedy_f1, sampled_em, ...; round keeps the last."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_em()
        self.check_search()
        if self.max_length is not None:
            raise ValueError(
                f"max_length={self.max_length} would cut rows, and the answer stands at their end; leave it None and "
                "set --max_tokens, which refuses a trajectory that is too long."
            )


class ExSearchTrainer:
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

    Attributes:
        history: dev metrics by round, filled by `train`.
        best: the best round so far.

    Raises:
        ValueError: for data that cannot be trained on, before a model is loaded.
    """

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
        tokenizer = processing_class or AutoTokenizer.from_pretrained(model)
        self.args, self.retriever, self.processing_class = args, retriever, tokenizer
        self.train_dataset, self.eval_dataset, self.warm_up_dataset = train_dataset, eval_dataset, warm_up_dataset
        self.folder = Path(str(args.output_dir))
        given: Any = args.model_init_kwargs or {}
        loading = {**given, **(model_init_kwargs or {})}
        self.models = RoundModels(model, peft_config, loading, args.device)
        self.steps = SearchSteps(SearchRolls(args, tokenizer, retriever, self.models), metrics)
        self.learning = SearchLearning(self.steps, callbacks or [])
        check_room(self.models.config(), args)
        check_questions(train_dataset, self.steps, "train_dataset")
        check_questions(eval_dataset, self.steps, "eval_dataset")
        check_demonstrations(warm_up_dataset or [], self.steps)
        self.history: list[dict[str, float]] = []
        self.on_round = on_round
        self._claimed = False

    @property
    def best(self) -> int:
        """Number of the best round that is done.

        Raises:
            ValueError: if none is.
        """
        if not self.history:
            raise ValueError("no round is done yet; call train() first.")
        return best_round(self.history, str(self.args.metric_for_best_model), self.args.greater_is_better is not False)

    def claim_folder(self) -> None:
        """Make the run folder this run's own, before anything is written to it; `train` does so if nobody has.

        Raises:
            rlft.em.stages.AnotherRun: if it holds a run with other settings.
        """
        if not self._claimed:
            self.folder.mkdir(parents=True, exist_ok=True)
            claim_identity(self.folder, self._identity())
            self._claimed = True

    def train(self, resume_from_checkpoint: str | bool | None = None) -> list[dict[str, float]]:
        """Run all rounds; where the folder holds this very run, go on with it.

        Args:
            resume_from_checkpoint: for the look of a TRL trainer; a folder with this run is gone on with in any case.

        Returns:
            Dev metrics by round.

        Raises:
            rlft.em.stages.AnotherRun: if the folder holds a run with other settings.
            rlft.trainers.exsearch_learning.NothingToLearn: if every question of a round was dropped.
        """
        self.claim_folder()
        self.history = []
        run_rounds(
            self._round,
            rounds=self.args.num_rounds,
            patience=self.args.patience,
            metric=str(self.args.metric_for_best_model),
            greater_is_better=self.args.greater_is_better is not False,
        )
        return self.history

    def _round(self, number: int) -> dict[str, float]:
        current, steps, learning = Round(self.folder, number), self.steps, self.learning
        if number == 0:
            current.stage("start", lambda: learning.start(current, self.warm_up_dataset), *WEIGHT_FILES)
        else:
            before = Round(self.folder, number - 1)
            origin = Round(self.folder, 0) if self.args.restart_from_warm_up else before
            chosen = questions_of(number, len(self.train_dataset), self.args.questions_per_round, self.args.seed)
            rows = [self.train_dataset[index] for index in chosen]
            current.stage("sample", lambda: steps.sample(current, before, rows), "trajectories-*")
            current.stage("score", lambda: steps.score(current, before, rows), "scores-*")
            current.stage("weigh", lambda: steps.weigh(current, rows), "weights.jsonl", "weights.json")
            current.stage("gather", lambda: learning.gather(current, rows), "rows.arrow", "rows.json")
            current.stage("learn", lambda: learning.learn(current, origin), *WEIGHT_FILES, "learn.json")
        metrics = {**self._validate(current, "dev", self.eval_dataset), "round": number}
        self.history.append(metrics)
        if self.on_round and PartialState().is_main_process:
            self.on_round(number, metrics)
        return metrics

    def _validate(self, current: Round, name: str, rows: Dataset) -> dict[str, float]:
        work = lambda: self.steps.validate(current, name, list(rows))  # noqa: E731
        current.stage(f"validate {name}", work, f"{name}-*", f"{name}.json")
        return json.loads((current.folder / f"{name}.json").read_text())

    def evaluate(self, eval_dataset: Dataset, *, name: str = "test", round: int | None = None) -> dict[str, float]:
        """Metrics of a round's model on other questions, kept in the round's folder under `name`.

        Args:
            eval_dataset: rows as for training.
            name: of the evaluation; a second call with the same rows gives what the first one found.
            round: which; None is the best.

        Raises:
            ValueError: for questions that cannot be used, or a round that was not done.
        """
        check_questions(eval_dataset, self.steps, "eval_dataset")
        number = self.best if round is None else round
        if not (self.folder / f"round-{number}").is_dir():
            raise ValueError(f"{self.folder} has no round {number}; train first, or name a round that was done.")
        name = f"{name}-{fingerprint(list(eval_dataset))[:8]}"
        return self._validate(Round(self.folder, number), name, eval_dataset)

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
            for file in (found for pattern in WEIGHT_FILES for found in source.glob(pattern)):
                shutil.copyfile(file, target / file.name)
        PartialState().wait_for_everyone()

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a run to go on."""
        args = self.args
        own = [option.name for options in (EMOptions, SearchTrainingOptions) for option in fields(options)]
        names = [*OF_TRAINING, *(name for name in own if name not in FREE_TO_CHANGE)]
        settings = args.to_dict()
        rows = {"train": self.train_dataset, "dev": self.eval_dataset, "warm_up": self.warm_up_dataset}
        return {
            **{name: settings[name] for name in names if name in settings},
            "rows_per_step": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "lora": self.models.peft_config.to_dict() if self.models.peft_config else None,
            "model": self.models.fingerprint(),
            "tokenizer": fingerprint([self.processing_class.get_vocab(), self.processing_class.chat_template]),
            "retriever": self.retriever.name,
            **{f"{name}_rows": fingerprint(list(data or [])) for name, data in rows.items()},
        }


def fingerprint(content: Any) -> str:
    """Digest of anything, the same in every process."""
    return hashlib.blake2b(canonical(content).encode(), digest_size=16).hexdigest()
