"""DRO: an EM loop over document permutations that trains a selector and a generator together (arXiv 2505.03075).

"Direct Retrieval-augmented Optimization" is not distributionally robust optimisation. Of n retrieved passages the
selector writes an ordered list z of K; the generator answers from these, d_z. The list is latent:

    p(y|x) = sum_z p(z|x; theta_s) p(y|x, d_z; theta_g)                                                (2)

Round t (algorithm 1 of the paper):

    E   z_i ~ p(z|x; theta_s), i = 1..m                             sample   rlft.rollouts.permutation
        s_i = log p(y|x, d_z_i; theta_g)                            score    rlft.em.score
        w_i = exp s_i / sum_j exp s_j                       (3, 4)  weigh    rlft.em.lists
    M   theta_s: maximise sum_x sum_i w_i log p(z_i|x)         (5)  learn    rlft.em.weighted_sft
        theta_g: maximise sum_x sum_i w_i log p(y|x, d_z_i)    (6)
    V   the pair: a list, then an answer from it                    validate rlft.evaluate.list_metrics

The best round by a dev metric is the result: two models, by default two LoRA adapters on one frozen base.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from rlft.em.options import EMOptions
from rlft.em.stages import Round
from rlft.pair_folder import GENERATOR, PAIR, ROLES, SELECTOR
from rlft.record.folder import write_whole
from rlft.retrieval.passage import Retriever
from rlft.trainers.dro_checks import (
    CandidateRows,
    check_demonstrations_of,
    check_list_questions,
    check_shared_sampler,
)
from rlft.trainers.dro_learning import PairLearning
from rlft.trainers.dro_options import DROOptions, refuse_without_effect
from rlft.trainers.dro_steps import DROSteps
from rlft.trainers.em_config import EMConfig
from rlft.trainers.em_learning import Learning
from rlft.trainers.em_trainer import EMTrainer, fingerprint, tokenizer_fingerprint
from rlft.trainers.pair_models import PairModels
from rlft.trainers.rolls import Rolls, Row
from rlft.trainers.round_models import RoundModels
from rlft.trainers.search_checks import check_room

logger = logging.getLogger(__name__)


@dataclass
class DROConfig(DROOptions, EMConfig):
    """`EMConfig` with the options of the lists. `num_generations` is m, the lists sampled for a question.

    Raises:
        ValueError: for a value out of its range.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_dro()
        refuse_without_effect(self)


class DROTrainer(EMTrainer):
    """Trains a selector and a generator by EM.

    Args:
        model: folder or Hub id of a causal LM with a chat template: the generator's base, and the selector's.
        args: a `DROConfig`.
        train_dataset: rows `{id, question, golden_answers}`, with `candidates` (`[{id, title, text}, ...]`, best
            first) or without.
        eval_dataset: dev rows that choose the best round.
        retriever: finds the candidates of rows that lack them, once; None where no row does.
        selector_model: another base for the selector.
        processing_class: tokenizer of `model`; its own if None.
        peft_config: LoRA of both; None trains all parameters of both.
        warm_up_datasets: of `selector`, of `generator`, or both: rows `{messages}` of demonstrations, learnt before
            round 1.
        model_init_kwargs: for `from_pretrained`.
        callbacks: of every M-step.
        on_round: `f(number, dev metrics)`, called after each round on the main process.

    Raises:
        ValueError: for data that cannot be trained on, before a model is loaded.
    """

    options = (EMOptions, DROOptions)

    def __init__(
        self,
        model: str,
        args: DROConfig,
        *,
        train_dataset: Dataset,
        eval_dataset: Dataset,
        retriever: Retriever | None = None,
        selector_model: str | None = None,
        processing_class: Any = None,
        peft_config: Any = None,
        warm_up_datasets: Mapping[str, Dataset] | None = None,
        model_init_kwargs: dict[str, Any] | None = None,
        callbacks: list[Any] | None = None,
        on_round: Callable[[int, dict[str, float]], None] | None = None,
    ):
        args.check_sampler(peft_config)
        if args.num_generations == 1:
            logger.warning("num_generations=1: with one list a question every weight is 1, and nothing is preferred.")
        super().__init__(args, train_dataset, eval_dataset, on_round)
        given: Any = args.model_init_kwargs or {}
        loading = {**given, **(model_init_kwargs or {})}
        bases = {SELECTOR: selector_model or model, GENERATOR: model}
        other = {name: value for name, value in loading.items() if name != "revision" or not selector_model}
        settings = {SELECTOR: other, GENERATOR: loading}  # a revision is the generator's
        self.models = {
            role: RoundModels(base, peft_config, settings[role], args.device) for role, base in bases.items()
        }
        own = processing_class or self.models[GENERATOR].tokenizer()
        tokenizers = {GENERATOR: own, SELECTOR: self.models[SELECTOR].tokenizer() if selector_model else own}
        pair = PairModels(self.models)
        check_shared_sampler(args, peft_config, shared=pair.shared)
        generator = Rolls(args, tokenizers[GENERATOR], pair)
        samplers = None if selector_model else generator.samplers
        selector = Rolls(args, tokenizers[SELECTOR], pair, samplers=samplers)
        self.rolls = {SELECTOR: selector, GENERATOR: generator}
        self.steps = DROSteps(selector, generator)
        learning = [Learning(self.rolls[role], self.models[role], callbacks or [], role) for role in ROLES]
        self.learning = PairLearning(self.steps, *learning)
        self.warm_up_datasets = dict(warm_up_datasets or {})
        self.candidate_rows = CandidateRows(self.steps, retriever)
        for models in self.models.values():
            check_room(models.config(), args)
        check_demonstrations_of(self.warm_up_datasets, self.rolls)
        self.check_rows(train_dataset, "train_dataset")
        self.check_rows(eval_dataset, "eval_dataset")

    def check_rows(self, rows: Dataset, name: str) -> None:
        """Refuse questions that cannot be scored, or whose candidates cannot be used, with a ValueError."""
        check_list_questions(rows, self.steps, name, self.candidate_rows.retriever)

    def prepared(self, current: Round, name: str, rows: Dataset) -> Sequence[Row]:
        """The rows with their candidates, found once."""
        drop = self.args.drop_unanswerable and name == "train"
        return self.candidate_rows.prepared(current, name, list(rows), drop_unanswerable=drop)

    def start(self, current: Round) -> None:
        """Two copies of the base, or two fresh adapters on it, each after its warm-up if there is one."""
        for one in (self.learning.selector, self.learning.generator):
            work = partial(one.start, current, self.warm_up_datasets.get(one.role))
            current.stage(f"start {one.role}", work, *one.files)
            one.tidy(current)

    def step(self, current: Round, before: Round, origin: Round, rows: Sequence[Row]) -> None:
        """Sample, score, weigh, gather, learn twice."""
        steps, learning = self.steps, self.learning
        current.stage("sample", lambda: steps.sample(current, before, rows), "lists-*")
        if steps.needs_answers:
            current.stage("answer", lambda: steps.answer(current, before, rows), "answers-*")
        current.stage("score", lambda: steps.score(current, before, rows), "scores-*")
        current.stage("weigh", lambda: steps.weigh(current, rows), "weights.jsonl", "weights.json")
        gathered = [one.rows_file(current).name for one in learning.trained]
        current.stage("gather", lambda: learning.gather(current, rows), *gathered, "rows.json")
        for one in (learning.selector, learning.generator):
            work = partial(learning.learn, current, before, origin, one)
            current.stage(f"learn {one.role}", work, *one.files, one.report_file)
            one.tidy(current)

    def validate(self, current: Round, name: str, rows: Sequence[Row]) -> None:
        """Metrics of the pair: a list, and an answer from it."""
        self.steps.validate(current, name, rows)

    def save_model(self, output_dir: str | None = None) -> None:
        """Copy the best round's pair to a folder, by default the run's, for `rlft.DROPair` and for plain peft.

        It gets `selector/` and `generator/`, each with its tokenizer, and `pair.json`, which says how to use them.
        """
        target = Path(output_dir or self.folder)
        if PartialState().is_main_process:
            target.mkdir(parents=True, exist_ok=True)
            for one in (self.learning.selector, self.learning.generator):
                shutil.copytree(self.folder / f"round-{self.best}" / one.role, target / one.role, dirs_exist_ok=True)
                one.rolls.tokenizer.save_pretrained(target / one.role)
            write_whole(target / PAIR, json.dumps(self._usage(), indent=1) + "\n")
        PartialState().wait_for_everyone()

    def _usage(self) -> dict[str, Any]:
        return {
            **{f"{role}_model": models.place for role, models in self.models.items()},
            **{f"{role}_revision": models.init_kwargs.get("revision") for role, models in self.models.items()},
            "list": asdict(self.steps.list_options),
            "reading": asdict(self.steps.reading_options),
            "chat_template_kwargs": self.args.template_settings(),
        }

    def identity(self) -> dict[str, Any]:
        """Bases, tokenizers, retriever and demonstrations."""
        generator, retriever = self.models[GENERATOR], self.candidate_rows.retriever
        return {
            "lora": generator.peft_config.to_dict() if generator.peft_config else None,
            **{f"{role}_model": models.fingerprint() for role, models in self.models.items()},
            **{f"{role}_tokenizer": tokenizer_fingerprint(rolls.tokenizer) for role, rolls in self.rolls.items()},
            "retriever": retriever.name if retriever else None,
            "warm_up_rows": fingerprint({role: list(rows) for role, rows in self.warm_up_datasets.items()}),
        }
