"""PrLM: personal answers by GRPO with a contrastive reward model (arXiv 2508.07342), a LoRA adapter out.

./launch.sh recipes/prlm.py                              embedded task and model, CPU, minutes, no downloads
./launch.sh recipes/prlm.py --scorer_form blind --negatives none
                                                         the paper's reward model, which never sees the profile
./launch.sh recipes/prlm.py --personalization_weight 0   without a reward model and its drift checks
./launch.sh recipes/prlm.py --smoke                      does everything work here? under a minute
./launch.sh recipes/prlm.py --config single_gpu --dataset_name LaMP_4_time --task 4
                                                         Qwen2.5-1.5B with LoRA on a folder of LaMP
"""

from typing import Any

from rlft.arguments import PersonalArguments
from rlft.configure import parse_recipe
from rlft.health.options import HealthOptions
from rlft.trainers.prlm_options import PrLMOptions

SHOWN = {"Recipe": PersonalArguments, "Rewards and token credit": PrLMOptions, "Health": HealthOptions}


def dataclasses() -> list[Any]:
    """What this recipe is configured by; imported late so that `--help` answers at once."""
    from trl import ModelConfig, ScriptArguments

    from rlft import PrLMConfig

    return [PersonalArguments, ScriptArguments, ModelConfig, PrLMConfig]


def main() -> None:
    """Parse, check, build pairs, train a reward model, audit it, train the policy, report."""
    recipe, data, model, training = parse_recipe("prlm", dataclasses, description=__doc__ or "", shown=SHOWN)

    from rlft import PrLMTrainer
    from rlft.checks import refusals
    from rlft.finish_prlm import rewards_of, train_and_report
    from rlft.finish_scorer import make_scorer
    from rlft.prepare_prlm import prepare_prlm

    plan = prepare_prlm("prlm", recipe, data, model, training)
    training.model_init_kwargs = plan.model_init_kwargs
    fresh = None
    with refusals():
        if plan.scorer is not None:
            training.scorer, fresh = make_scorer(plan.scorer, plan.model, plan.model_init_kwargs, training)
        trainer = PrLMTrainer(
            model=plan.model,
            reward_funcs=rewards_of(plan, training),
            args=training,
            train_dataset=plan.train_rows,
            eval_dataset=plan.dev_rows,
            fresh=fresh,
            peft_config=plan.peft_config,
        )
    train_and_report(trainer, plan)


if __name__ == "__main__":
    main()
