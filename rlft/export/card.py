"""The model card: what was trained on what and how, how good it is, how to load and to evaluate it. No torch."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rlft.export.metrics import figures_of
from rlft.record.folder import CONFIG_NAME
from rlft.run_folder import RunFolder
from rlft.saved import SavedModel


class Method(NamedTuple):
    """What a card says of a method."""

    name: str
    does: str
    title: str
    arxiv: str
    tags: tuple[str, ...]
    tasks: str
    """Tasks of lm-evaluation-harness near to what it trains, or that show what it may have harmed."""


METHODS = {
    "shear": Method(
        "SHEAR",
        "GRPO whose token advantages are scaled by the Wasserstein distance between hidden states of correct and "
        "incorrect rollouts",
        "Hidden States Know Where Reasoning Diverges: Credit Assignment via Span-Level Wasserstein Distance",
        "2604.23318",
        ("grpo", "shear", "reinforcement-learning"),
        "gsm8k",
    ),
    "exsearch": Method(
        "EXSEARCH",
        "expectation-maximisation over trajectories of searches, weighted by the likelihood of the gold answer",
        "Iterative Self-Incentivization Empowers Large Language Models as Agentic Searchers",
        "2505.20128",
        ("exsearch", "search-agent", "expectation-maximization"),
        "nq_open",
    ),
    "dro": Method(
        "DRO",
        "expectation-maximisation over lists of passages that trains a selector and a generator together",
        "Direct Retrieval-augmented Optimization: Synergizing Knowledge Selection and Language Models",
        "2505.03075",
        ("dro", "rag", "expectation-maximization"),
        "nq_open",
    ),
    "prlm": Method(
        "PrLM",
        "GRPO for answers in the style of a user, guided by a reward model trained on pairs with and without profile",
        "PrLM: Learning Explicit Reasoning for Personalized RAG via Contrastive Reward Optimization",
        "2508.07342",
        ("grpo", "prlm", "personalization", "reinforcement-learning"),
        "hellaswag",
    ),
    "stoc": Method(
        "STOC",
        "continual training with replay that the model writes itself from the snippets that it attends to most",
        "Towards Understanding Continual Factual Knowledge Acquisition of Language Models: From Theory to Algorithm",
        "2605.10640",
        ("stoc", "continual-learning"),
        "hellaswag",
    ),
}
_SETTINGS = (
    *("seed", "learning_rate", "max_steps", "num_rounds", "num_train_epochs", "num_generations", "credit"),
    *("temperature", "max_completion_length", "beta", "loss_type", "replay", "alpha"),
)
_GRPO = Method(
    "GRPO",
    "group-relative policy optimisation with rewards from functions",
    "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
    "2402.03300",
    ("grpo", "reinforcement-learning"),
    "gsm8k",
)


def method_of(run: RunFolder) -> Method:
    """The method of a run; a run of SHEAR's recipe with constant credit is plain GRPO."""
    return _GRPO if run.method == "shear" and run.training.get("credit") == "constant" else METHODS[run.method]


def card(
    run: RunFolder, role: str, saved: SavedModel, form: str, place: Path, checked: str, license: str | None
) -> str:
    """The text of `README.md`.

    Args:
        run: the run.
        role: of the model: empty, selector or generator.
        saved: the model in the run.
        form: adapter, merged or model.
        place: folder of the export, where it will lie.
        checked: what was compared, and what came out.
        license: as the Hub names it; None leaves it out.
    """
    method = method_of(run)
    data = run.configuration["data"]["dataset_name"]
    parts = [
        f"# {method.name}{f' {role}' if role else ''} on {data}",
        f"{_kind(form)} trained with {method.name}: {method.does}. Paper: {method.title}, "
        f"[arXiv {method.arxiv}](https://arxiv.org/abs/{method.arxiv}). Trained by rlft on unmodified TRL trainers.",
        "## Training",
        _table(("", ""), _training(run, saved)),
        "## Data",
        _table(("rows", "number", "SHA-256"), _data(run)),
        *_sources(run),
        "## Held-out metrics",
        _held_out(run),
        "## Load it",
        f"```python\n{_load(form, place)}\n```",
        "## Evaluate it",
        "On public tasks, with [lm-evaluation-harness](https://github.com/EleutherAI/lm-evaluation-harness) "
        "(`pip install lm_eval[hf]`); name the tasks that matter to you:",
        f"```bash\n{lm_eval_command(run, saved, form, place)}\n```",
        "On your own rows:",
        f"```bash\nrlft eval {shlex.quote(str(place))} --data rows.jsonl --metric answer_match\n```",
        "## The export",
        f"Loaded again and compared with the model that the run saved: {checked}.",
    ]
    return f"---\n{front_matter(run, saved, form, license)}---\n\n" + "\n\n".join(parts) + "\n"


def front_matter(run: RunFolder, saved: SavedModel, form: str, license: str | None) -> str:
    """The Hub's metadata as YAML; a base or a data set that is no Hub id is left out, as the Hub refuses it."""
    base, data = saved.base or run.configuration["model"]["model_name_or_path"], run.configuration["data"]
    said: dict[str, Any] = {"library_name": "peft" if form == "adapter" else "transformers"}
    if license is not None:
        said["license"] = license
    if _on_hub(base):
        said |= {"base_model": base, "base_model_relation": "adapter" if form == "adapter" else "finetune"}
    if _on_hub(data["dataset_name"]):
        said["datasets"] = [data["dataset_name"]]
    tags = [*method_of(run).tags, *(["lora"] if saved.base is not None else []), "rlft", "trl"]
    said |= {"pipeline_tag": "text-generation", "tags": [*tags, f"arxiv:{method_of(run).arxiv}"]}
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True)


def lm_eval_command(run: RunFolder, saved: SavedModel, form: str, place: Path) -> str:
    """The command of lm-evaluation-harness for an export."""
    model = {"pretrained": str(place)}
    if form == "adapter":
        revision = {} if saved.revision is None else {"revision": saved.revision}
        model = {"pretrained": str(saved.base), **revision, "peft": str(place), "tokenizer": str(place)}
    arguments = ",".join(f"{name}={value}" for name, value in model.items())
    chat = " --apply_chat_template" if _speaks_chat(run) else ""
    return (
        f"lm_eval --model hf --model_args {shlex.quote(arguments)} \\\n"
        f"    --tasks {method_of(run).tasks} --batch_size auto{chat} --output_path lm_eval_results"
    )


def _speaks_chat(run: RunFolder) -> bool:
    """Whether the model was trained on conversations rather than on plain text."""
    return run.method in ("exsearch", "dro") or bool(run.configuration["recipe"].get("system_prompt"))


def _training(run: RunFolder, saved: SavedModel) -> Iterable[tuple[Any, ...]]:
    said, model = run.training, run.configuration["model"]
    yield "base", f"`{saved.base or model['model_name_or_path']}`"
    if not Path(saved.start).is_dir():
        yield "revision of the base", saved.revision or "not known"
    yield "base loaded as", _loaded_as(model)
    if saved.base is not None:
        yield "LoRA", f"rank {model['lora_r']}, alpha {model['lora_alpha']}"
    if not run.whole:
        yield "part of the run", f"`{run.folder.name}`"
    yield from ((name, said[name]) for name in _SETTINGS if name in said)
    yield "all settings", f"`{CONFIG_NAME}` of the run"
    yield from run.provenance.get("versions", {}).items()


def _loaded_as(model: Mapping[str, Any]) -> str:
    bits = "4 bits" if model.get("load_in_4bit") else "8 bits" if model.get("load_in_8bit") else None
    return bits or str(model.get("dtype"))


def _data(run: RunFolder) -> Iterable[tuple[Any, ...]]:
    name = run.configuration["data"]["dataset_name"]
    known = run.provenance.get("data", {})
    for split, found in known.items():
        yield f"`{name}`, {split}", found["rows"], f"`{found['sha256']}`" if found["rows"] else ""
    if not known:
        yield f"`{name}`", "not recorded", ""


def _sources(run: RunFolder) -> list[str]:
    """Rewards and other plug-ins by the digest of the file that defines them."""
    found = run.provenance.get("sources", {})
    if not found:
        return []
    rows = [(f"`{name}`", *_source(one)) for name, one in found.items()]
    given = run.configuration["recipe"].get("reward_funcs")
    said = f"Rewards as they were named: {', '.join(f'`{spec}`' for spec in given)}." if given else ""
    return ["## Rewards, metric and credit", *([said] if said else []), _table(("function", "file", "SHA-256"), rows)]


def _source(one: Mapping[str, str | None]) -> tuple[str, str]:
    return (f"`{Path(one['file']).name}`", f"`{one['sha256']}`") if one["file"] else ("none", "")


def _held_out(run: RunFolder) -> str:
    figures = figures_of(run)
    if not figures:
        return "None were measured of this part of the run."
    rows = [(one.name, f"{one.before:.4f}", f"{one.after:.4f}", one.meaning) for one in figures]
    return _table(("metric", "before training", "after", "what it is"), rows)


def _load(form: str, place: Path) -> str:
    library, auto = "transformers", "AutoModelForCausalLM"
    if form == "adapter":
        library, auto = "peft", "AutoPeftModelForCausalLM"
    return (
        f"from {library} import {auto}\nfrom transformers import AutoTokenizer\n\n"
        f'model = {auto}.from_pretrained("{place}", dtype="auto")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{place}")'
    )


def _kind(form: str) -> str:
    return {"adapter": "A LoRA adapter", "merged": "A LoRA adapter merged into its base", "model": "A model"}[form]


def _on_hub(name: str | None) -> bool:
    """Whether a name can be an id of the Hub: no folder, no file, no embedded task."""
    if not name or name.startswith(("tiny/", ".", "/", "~")) or Path(name).exists():
        return False
    return name.count("/") <= 1 and Path(name).suffix.lower() not in (".json", ".jsonl", ".csv", ".parquet")


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
