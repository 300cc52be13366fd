"""EXSEARCH: an EM loop that teaches a model to search (arXiv 2505.20128), a LoRA adapter out.

./launch.sh recipes/exsearch.py                             embedded world and model, CPU, minutes, no downloads
./launch.sh recipes/exsearch.py --weighting rejection       learn from searches with the right answer only
./launch.sh recipes/exsearch.py --smoke                     does everything work here? about a minute
./launch.sh recipes/exsearch.py --config single_gpu         Qwen2.5-3B with LoRA on HotpotQA, your corpus
./launch.sh recipes/exsearch.py --dataset_name questions.jsonl --retriever 'bm25(corpus="corpus.jsonl")' \\
    --model_name_or_path Qwen/Qwen2.5-3B-Instruct
"""

from typing import Any

from rlft.arguments import SearchArguments
from rlft.configure import COMMON, parse_recipe
from rlft.em.options import EMOptions
from rlft.health.options import HealthOptions
from rlft.trainers.search_options import SearchTrainingOptions

SHOWN = {
    "Recipe": SearchArguments,
    "Search": SearchTrainingOptions,
    "Expectation-maximisation": EMOptions,
    "Health": HealthOptions,
}
ELSEWHERE = {"num_generations", "max_completion_length", "use_vllm", "max_steps"}


def dataclasses() -> list[Any]:
    """What this recipe is configured by; imported late so that `--help` answers at once."""
    from trl import ModelConfig, ScriptArguments

    from rlft import ExSearchConfig

    return [SearchArguments, ScriptArguments, ModelConfig, ExSearchConfig]


def main() -> None:
    """Parse, check, build, train, report."""
    common = [name for name in COMMON if name not in ELSEWHERE]
    recipe, data, model, training = parse_recipe(
        "exsearch", dataclasses, description=__doc__ or "", shown=SHOWN, common=common
    )

    from rlft import ExSearchTrainer
    from rlft.checks import refusals
    from rlft.finish_em import say_round
    from rlft.finish_search import train_and_report
    from rlft.prepare_search import prepare_search

    plan = prepare_search("exsearch", recipe, data, model, training)
    with refusals():
        trainer = ExSearchTrainer(
            model=plan.model,
            args=training,
            train_dataset=plan.train_rows,
            eval_dataset=plan.dev_rows,
            warm_up_dataset=plan.warm_up_rows,
            retriever=plan.retriever,
            peft_config=plan.peft_config,
            model_init_kwargs=plan.model_init_kwargs,
            metrics=plan.metrics,
            on_round=say_round(plan),
        )
    train_and_report(trainer, plan)


if __name__ == "__main__":
    main()
