"""SHEAR: GRPO with span-level Wasserstein token credit (arXiv 2604.23318), a LoRA adapter out.

./launch.sh recipes/shear.py                        embedded task and model, CPU, minutes, no downloads
./launch.sh recipes/shear.py --credit constant      plain GRPO on the same task
./launch.sh recipes/shear.py --smoke                does everything work here? under a minute
./launch.sh recipes/shear.py --config single_gpu    Qwen2.5-Math-1.5B with LoRA on MATH
./launch.sh recipes/shear.py --reward_funcs my_rewards.py:score --dataset_name my_prompts.jsonl
"""

from typing import Any

from rlft.arguments import RecipeArguments
from rlft.configure import parse_recipe
from rlft.credit.options import CreditOptions
from rlft.health.options import HealthOptions

SHOWN = {"Recipe": RecipeArguments, "Token credit": CreditOptions, "Health": HealthOptions}


def dataclasses() -> list[Any]:
    """What this recipe is configured by; imported late so that `--help` answers at once."""
    from trl import ModelConfig, ScriptArguments

    from rlft import SHEARConfig

    return [RecipeArguments, ScriptArguments, ModelConfig, SHEARConfig]


def main() -> None:
    """Parse, check, build, train, report."""
    recipe, data, model, training = parse_recipe("shear", dataclasses, description=__doc__ or "", shown=SHOWN)

    from rlft import SHEARTrainer
    from rlft.checks import refusals
    from rlft.finish import train_and_report
    from rlft.prepare import prepare

    plan = prepare("shear", recipe, data, model, training)
    training.model_init_kwargs = plan.model_init_kwargs
    with refusals():
        trainer = SHEARTrainer(
            model=plan.model,
            reward_funcs=plan.reward_funcs,
            args=training,
            train_dataset=plan.train_rows,
            eval_dataset=plan.dev_rows,
            peft_config=plan.peft_config,
        )
    train_and_report(trainer, plan)


if __name__ == "__main__":
    main()
