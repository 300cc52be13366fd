"""What a recipe needs beyond TRL's own configuration: data columns, rewards, evaluation. Imports no torch."""

from dataclasses import dataclass, field


@dataclass
class RecipeArguments:
    """Arguments shared by the recipes that train with rewards.

    Attributes:
        reward_funcs: reward specs: `name`, `package.module:attr` or `path/to/file.py:attr`.
        eval_metric: task metric of the held-out evaluation, by spec.
        eval_rows: held-out rows.
        prompt_column: dataset column with the prompt.
        answer_column: dataset column with the gold answer; rewards see it as `answer`.
        system_prompt: if given, prompts become conversations that open with it.
        torch_threads: CPU threads of torch; tiny models are fastest, and safest, with one.
        smoke: shorten the run to a few steps.
    """

    reward_funcs: list[str] = field(
        default_factory=lambda: ["exact_match"],
        metadata={"help": "Rewards: a ready-made name, package.module:attr or path/to/file.py:attr; several add up."},
    )
    eval_metric: str = field(
        default="answer_match",
        metadata={"help": "Task metric of the held-out evaluation: answer_match, a reward name, or a spec."},
    )
    eval_rows: int = field(default=512, metadata={"help": "Held-out rows evaluated before and after; 0 for none."})
    prompt_column: str = field(default="prompt", metadata={"help": "Dataset column with the prompt."})
    answer_column: str = field(
        default="answer", metadata={"help": "Dataset column with the gold answer; rewards see it as `answer`."}
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "Turns prompts into conversations that open with this text."}
    )
    torch_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of torch; 1 is fastest for tiny models."}
    )
    smoke: bool = field(
        default=False, metadata={"help": "Does everything work here? At most 5 steps and 32 held-out rows."}
    )


@dataclass
class EMArguments:
    """Arguments shared by the EM recipes.

    Attributes:
        retriever: retriever spec; None is for embedded tasks, and for questions that come with their passages.
        retrieval_cache: folder of the on-disk cache of searches; None keeps none.
        layout: layout of the question file, if its columns do not tell.
        dev_rows: training questions set aside to choose the best round by.
        eval_rows: held-out questions.
        torch_threads: CPU threads of torch.
        smoke: shorten the run.
    """

    retriever: str | None = field(
        default=None,
        metadata={"help": 'bm25(corpus="c.jsonl"), dense(...), http(url="..."), or file.py:attr. None: with the data.'},
    )
    retrieval_cache: str | None = field(
        default=None, metadata={"help": "Folder in which searches are cached over rounds and runs; None: no cache."}
    )
    layout: str | None = field(
        default=None, metadata={"help": "flashrag, hotpotqa, 2wiki, musique or nq; None: told by the columns."}
    )
    dev_rows: int = field(default=256, metadata={"help": "Training questions set aside to choose the best round by."})
    eval_rows: int = field(
        default=512, metadata={"help": "Held-out questions, evaluated before and after; 0 for none."}
    )
    torch_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of torch; 1 is fastest for tiny models."}
    )
    smoke: bool = field(
        default=False, metadata={"help": "Does everything work here? One round of 16 questions, 16 held-out ones."}
    )


@dataclass
class SearchArguments(EMArguments):
    """Arguments of the recipes that teach a model to search.

    Attributes:
        warm_up_dataset: JSONL of demonstrations.
    """

    warm_up_dataset: str | None = field(
        default=None, metadata={"help": 'JSONL of demonstrations {"messages": [...]}, learnt before round 1.'}
    )


@dataclass
class ListArguments(EMArguments):
    """Arguments of the recipes that train a selector and a generator.

    Attributes:
        selector_model: base of the selector; None is that of the generator.
        selector_warm_up: JSONL of the selector's demonstrations.
        generator_warm_up: JSONL of the generator's demonstrations.
    """

    selector_model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of another base for the selector; None: both have one base."}
    )
    selector_warm_up: str | None = field(
        default=None, metadata={"help": 'JSONL of demonstrations {"messages": [...]} of lists, learnt before round 1.'}
    )
    generator_warm_up: str | None = field(
        default=None,
        metadata={"help": 'JSONL of demonstrations {"messages": [...]} of answers, learnt before round 1.'},
    )
