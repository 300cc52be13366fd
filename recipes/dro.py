"""DRO-RAG: an EM loop that trains a selector of passages and a generator together (arXiv 2505.03075), two adapters out.

./launch.sh recipes/dro.py                                  embedded questions and model, CPU, minutes, no downloads
./launch.sh recipes/dro.py --freeze_selector true           train the generator only; --freeze_generator the other
./launch.sh recipes/dro.py --selector_objective grpo        the rival: advantages of the same lists, for the selector
./launch.sh recipes/dro.py --smoke                          does everything work here? about a minute
./launch.sh recipes/dro.py --config single_gpu              Qwen2.5-3B with LoRA on HotpotQA, your corpus
./launch.sh recipes/dro.py --dataset_name questions.jsonl --retriever 'bm25(corpus="corpus.jsonl")' \\
    --model_name_or_path Qwen/Qwen2.5-3B-Instruct
"""

from typing import Any

from rlft.arguments import ListArguments
from rlft.configure import COMMON, parse_recipe
from rlft.em.options import EMOptions
from rlft.health.options import HealthOptions
from rlft.trainers.dro_options import DROOptions

SHOWN = {"Recipe": ListArguments, "Lists": DROOptions, "Expectation-maximisation": EMOptions, "Health": HealthOptions}
ELSEWHERE = {"num_generations", "max_completion_length", "use_vllm", "max_steps"}


def dataclasses() -> list[Any]:
    """What this recipe is configured by; imported late so that `--help` answers at once."""
    from trl import ModelConfig, ScriptArguments

    from rlft import DROConfig

    return [ListArguments, ScriptArguments, ModelConfig, DROConfig]


def main() -> None:
    """Parse, check, build, train, report."""
    common = [name for name in COMMON if name not in ELSEWHERE]
    recipe, data, model, training = parse_recipe(
        "dro", dataclasses, description=__doc__ or "", shown=SHOWN, common=common
    )

    from rlft import DROTrainer
    from rlft.checks import refusals
    from rlft.finish_lists import say_pair_round, train_and_report
    from rlft.prepare_lists import prepare_lists

    plan = prepare_lists("dro", recipe, data, model, training)
    with refusals():
        trainer = DROTrainer(
            model=plan.model,
            args=training,
            train_dataset=plan.train_rows,
            eval_dataset=plan.dev_rows,
            retriever=plan.retriever,
            selector_model=plan.selector_model,
            peft_config=plan.peft_config,
            warm_up_datasets=plan.warm_ups,
            model_init_kwargs=plan.model_init_kwargs,
            on_round=say_pair_round(plan),
        )
    train_and_report(trainer, plan)


if __name__ == "__main__":
    main()
