"""STOC: learn new text and keep the old by replay that the model writes itself (arXiv 2605.10640), a model out.

./launch.sh recipes/stoc.py                              embedded people and model, CPU, minutes, no downloads
./launch.sh recipes/stoc.py --arms none real fair ewc    other forms of replay and their rivals, compared
./launch.sh recipes/stoc.py --arms stoc --scorer random --stop_at_end true    one run, with your options
./launch.sh recipes/stoc.py --smoke                      does everything work here? under a minute
./launch.sh recipes/stoc.py --config single_gpu --dataset_name ZsRE-test-all.json     Qwen2.5-0.5B on KnowEdit
./launch.sh recipes/stoc.py --config single_gpu --dataset_name rows.jsonl \\
    --new_probes new.jsonl --old_probes old.jsonl        your rows {text} or {prompt, completion}
"""

from typing import Any

from rlft.arguments import ContinualArguments
from rlft.configure import COMMON, parse_recipe
from rlft.health.options import HealthOptions
from rlft.trainers.stoc_options import STOCOptions

SHOWN = {"Recipe": ContinualArguments, "Replay": STOCOptions, "Health": HealthOptions}
ELSEWHERE = {"num_generations", "max_completion_length", "use_vllm"}


def dataclasses() -> list[Any]:
    """What this recipe is configured by; imported late so that `--help` answers at once."""
    from trl import ModelConfig, ScriptArguments

    from rlft import STOCConfig

    return [ContinualArguments, ScriptArguments, ModelConfig, STOCConfig]


def main() -> None:
    """Parse, check, train each arm, compare."""
    common = [name for name in COMMON if name not in ELSEWHERE]
    recipe, data, model, training = parse_recipe(
        "stoc", dataclasses, description=__doc__ or "", shown=SHOWN, common=common
    )

    from rlft import STOCTrainer
    from rlft.checks import refusals
    from rlft.finish_stoc import Report
    from rlft.prepare_stoc import prepare_stoc

    plan = prepare_stoc("stoc", recipe, data, model, training)
    report = Report(plan)
    for arm, args in plan.to_train().items():
        with refusals():
            trainer = STOCTrainer(
                model=plan.start(),
                args=args,
                train_dataset=plan.new,
                old_dataset=plan.old,
                probes=plan.probes,
                processing_class=plan.tokenizer,
                peft_config=plan.peft_config,
            )
        report.train(arm, trainer)
    report.finish()


if __name__ == "__main__":
    main()
