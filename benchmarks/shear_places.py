"""Where the arms of benchmarks/shear_study.py put their weight on the needle before any training.

Groups are sampled from a warmed-up model. Of every whole rollout of a group with at least two rollouts on each side:

    share  weight of the decisive tag over the rollout's mean weight; 1 is plain GRPO
    gain   weight of the decisive tag over the root mean square of all tags' weights: how much the signal of one tag
           grows against the noise of the free ones, if the tags' gradients are equally large and independent
    auc    chance that the decisive tag weighs more than a free tag at the same token index in a group of another symbol
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from shear_arms import Arm
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlft.credit import Group
from rlft.tiny.needle import gold_tag
from rlft.tiny.tasks import NeedleTask

PROMPTS = 16


def sampled_groups(task: NeedleTask, folder: Path, seed: int, size: int = 16) -> list[tuple[dict[str, Any], Group]]:
    """Rows with their groups of whole walks from a warmed-up model, if each side has at least two rollouts."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(seed)
    found = []
    for row in task.rows(PROMPTS, 5):
        prompt = tokenizer([row["prompt"]] * size, return_tensors="pt").input_ids
        with torch.no_grad():
            ids = model.generate(prompt, do_sample=True, max_new_tokens=task.walk.tokens)
            states = model.model(ids).last_hidden_state[:, prompt.size(1) :]
        ids = ids[:, prompt.size(1) :]
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        whole = [i for i, text in enumerate(texts) if any(_right(text, row, tag) for tag in "012")]
        correct = torch.tensor([bool(_right(texts[i], row, row["answer"][1])) for i in whole])
        if min(int(correct.sum()), int((~correct).sum())) >= 2:
            rewards = correct.float()
            hidden = [states[i] for i in whole]
            found.append((row, Group([ids[i] for i in whole], rewards, correct, rewards - rewards.mean(), hidden)))
    return found


def places(task: NeedleTask, folder: Path, arms: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """One line an arm: `share`, `gain` and `auc`, means over the rollouts of the groups of one model."""
    groups, lines = sampled_groups(task, folder, seed), []
    step = 2 + task.walk.spacers
    tags = torch.arange(task.walk.letters) * step + 1
    for name in arms:
        arm = Arm(name, seed)
        weighed = []
        for row, group in groups:
            arm.decisive = [row["decisive"]]
            relative = torch.stack([weight / weight.mean() for weight in arm(group) if weight.sum() > 0])
            weighed.append((row["decisive"], relative))
        shares = torch.cat([weights[:, place] for place, weights in weighed])
        gains = torch.cat([weights[:, place] / (weights[:, tags] ** 2).mean(1).sqrt() for place, weights in weighed])
        lines.append(
            {
                "arm": name,
                "seed": seed,
                "rollouts": len(shares),
                "share": float(shares.mean()),
                "gain": float(gains.mean()),
                "auc": _auc(weighed),
            }
        )
    return lines


def _right(text: str, row: dict[str, Any], tag: str) -> bool:
    """Whether the completion is a walk whose decisive letter has this tag."""
    letter, gold = row["answer"]
    return gold_tag([text], [row["pattern"].replace(letter + gold, letter + tag)])[0] == 1.0


def _auc(weighed: Sequence[tuple[int, torch.Tensor]]) -> float:
    wins, pairs = 0.0, 0
    for place, decisive in weighed:
        free = torch.cat([weights[:, place] for other, weights in weighed if other != place])
        above = decisive[:, place, None] - free[None, :]
        wins += float((above > 0).sum() + 0.5 * (above == 0).sum())
        pairs += above.numel()
    return wins / pairs
