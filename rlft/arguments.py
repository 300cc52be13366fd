"""What a recipe needs beyond TRL's own configuration: data, rewards, evaluation. Imports no torch."""

from dataclasses import dataclass, field
from typing import Any

from rlft.data.profile_prompt import SYSTEM

DEV_ROWS = "Training rows set aside to choose the best checkpoint by: --eval_strategy steps --save_strategy best."


@dataclass
class RecipeArguments:
    """Arguments shared by the recipes that train with rewards.

    Attributes:
        reward_funcs: reward specs: `name`, `package.module:attr` or `path/to/file.py:attr`.
        eval_metric: task metric of the held-out evaluation, by spec.
        eval_rows: held-out rows.
        dev_rows: training rows set aside to choose the best checkpoint by.
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
    dev_rows: int = field(default=256, metadata={"help": DEV_ROWS})
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


def _listed(*default: Any, text: str) -> Any:
    return field(default_factory=lambda: list(default), metadata={"help": text})


@dataclass
class PersonalArguments:
    """Arguments of the recipes that train on the past items of users. Each field's help says what it is.

    Defaults are those of PrLM's code (arXiv 2508.07342) where it states them.
    """

    task: int | None = field(
        default=None, metadata={"help": "Task of LaMP, 1 to 7, that the folder --dataset_name holds."}
    )
    reward_funcs: list[str] | None = field(
        default=None,
        metadata={"help": "Rewards beside the reward model's; None: rouge and think_format, PrLM's own."},
    )
    train_rows: int = field(
        default=500, metadata={"help": "Rows trained on with rewards, the first ones; 0: all that pairs leave."}
    )
    retriever: str = field(
        default="bm25",
        metadata={"help": 'Chooses past items: none, random, recency, bm25, dense(model="..."), or file.py:attr.'},
    )
    profiles: int = field(default=5, metadata={"help": "Past items that a prompt shows (k)."})
    prompt_tokens: int = field(default=3000, metadata={"help": "Budget of a prompt; long fields are cut to fit."})
    over_budget: str = field(
        default="cut", metadata={"help": "A longer prompt: cut its past items' long fields, or error."}
    )
    system_prompt: str = field(default=SYSTEM, metadata={"help": "System turn; an empty text leaves the turn out."})
    pair_rows: int = field(
        default=5000, metadata={"help": "Rows for pairs by the untrained policy, and drift checks; none is trained on."}
    )
    pair_temperature: float = field(
        default=0.0, metadata={"help": "Of the answers in pairs; 0 is greedy, the paper's."}
    )
    pair_batch_size: int = field(default=64, metadata={"help": "Answers for pairs that are sampled together."})
    negatives: list[str] = _listed(
        "none", text="Rejected answers: none (no profile, the paper's), swap (another user's), corrupt; several each."
    )
    pair_margin: float | None = field(
        default=None, metadata={"help": "Keep a pair if ROUGE of the chosen answer is ahead by this; None keeps all."}
    )
    pair_length_ratio: float | None = field(
        default=None, metadata={"help": "Keep a pair if no answer has more than so many times the other's words."}
    )
    audit_share: float = field(
        default=0.1, metadata={"help": "Share of the users whose pairs are kept for the audit and the drift checks."}
    )
    scorer_form: str = field(
        default="blind", metadata={"help": "Reward model: blind (question and answer, the paper's) or aware (profile)."}
    )
    scorer_model: str | None = field(
        default=None, metadata={"help": "Its backbone, BERT type or decoder; None: the model that is trained."}
    )
    scorer_loss: str = field(default="bt", metadata={"help": "bt (Bradley-Terry, the paper's) or infonce."})
    scorer_temperature: float = field(default=1.0, metadata={"help": "T of infonce."})
    scorer_learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate, with linear decay."})
    scorer_warmup_steps: int = field(default=0, metadata={"help": "Warm-up steps of that rate."})
    scorer_epochs: float = field(default=3.0, metadata={"help": "Passes over the pairs."})
    scorer_batch_size: int = field(default=64, metadata={"help": "Pairs per optimiser step, over all processes."})
    scorer_device_batch_size: int = field(
        default=64, metadata={"help": "Pairs in one forward and backward of a process; the rest accumulates."}
    )
    scorer_max_length: int = field(
        default=512, metadata={"help": "Tokens that the reward model reads; longer pairs are left out and counted."}
    )
    scorer_lora_r: int = field(default=0, metadata={"help": "Rank of a LoRA adapter; 0 trains all its weights."})
    drift_rows: int = field(
        default=64,
        metadata={"help": "Rows of a drift check (--drift_steps), of --pair_rows: users the reward model never saw."},
    )
    eval_rows: int = field(default=500, metadata={"help": "Held-out rows evaluated before and after; 0 for none."})
    dev_rows: int = field(default=256, metadata={"help": DEV_ROWS})
    eval_temperature: float = field(
        default=0.0, metadata={"help": "Of the held-out answers; 0 is greedy, the paper's."}
    )
    eval_profiles: list[int] = _listed(text="Evaluate with these numbers of past items too: 0 1 2 5.")
    eval_retrievers: list[str] = _listed(text="Evaluate with these choosers of past items too: none random bm25.")
    torch_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of torch; 1 is fastest for tiny models."}
    )
    smoke: bool = field(
        default=False, metadata={"help": "Does everything work here? 5 steps, 96 rows of pairs, 32 held-out rows."}
    )


@dataclass
class ContinualArguments:
    """Arguments of the recipes that teach a trained model new text. Each field's help says what it is."""

    arms: list[str] = _listed(
        "stoc",
        text="Runs to compare, from one start: stoc (the options as they are given), recommended, released, fair, "
        "sinkless, prefix, random, bos; none, real, ewc, l2.",
    )
    ewc_strength: float = field(default=1.0, metadata={"help": "--anchor_strength of the arm ewc."})
    l2_strength: float = field(default=1.0, metadata={"help": "--anchor_strength of the arm l2."})
    layout: str | None = field(
        default=None, metadata={"help": "KnowEdit file: zsre, wikibio or recent; None: told by its columns."}
    )
    old_dataset: str | None = field(
        default=None, metadata={"help": "File of old data, in the form of rows to learn: for the arms real and ewc."}
    )
    new_probes: str | None = field(
        default=None, metadata={"help": "JSONL of {prompt, answer} about the new data; None: the data set's own."}
    )
    old_probes: str | None = field(
        default=None, metadata={"help": "JSONL of {prompt, answer} about the old data; None: the data set's own."}
    )
    probe_rows: int = field(default=0, metadata={"help": "Probes asked of each set, a random choice; 0: all."})
    recall: str = field(
        default="hfta",
        metadata={
            "help": "Recall in table and picture: hfta, sfta (first token); soft, exact (all tokens); soft_end (the "
            "end too, as on KnowEdit); em (in what the model writes)."
        },
    )
    phase: str = field(
        default="new", metadata={"help": "Of biographies: new, or old for the training that comes before."}
    )
    old_people: int = field(default=100_000, metadata={"help": "Old people of --dataset_name biographies."})
    new_people: int = field(default=20_000, metadata={"help": "New people of --dataset_name biographies."})
    copies: int = field(default=5, metadata={"help": "Biographies of each person of --dataset_name biographies (P)."})
    from_scratch: bool = field(
        default=False, metadata={"help": "Take the model's shape and tokenizer only, and random weights."}
    )
    torch_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of torch; 1 is fastest for tiny models."}
    )
    smoke: bool = field(default=False, metadata={"help": "Does everything work here? 5 steps an arm, 32 probes a set."})
