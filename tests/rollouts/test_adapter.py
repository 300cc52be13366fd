"""Search rollouts under GRPO: what TRL trains on is what was sampled, and nothing of the environment."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from datasets import Dataset  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from rlft.rollouts import adapter, transformers_policy  # noqa: E402
from rlft.rollouts.adapter import as_rollout_func, question_row  # noqa: E402
from rlft.rollouts.frame import ChatFrame  # noqa: E402
from rlft.rollouts.policy import Draw, Generation, Policy, Sampling  # noqa: E402
from rlft.rollouts.search import SearchOptions, SearchRollout  # noqa: E402
from rlft.rollouts.single_turn import single_turn  # noqa: E402
from rlft.rollouts.trajectory import FinishReason, Segment, Trajectory  # noqa: E402
from rlft.tiny.model import tiny_model  # noqa: E402
from rlft.trainers.shear import SHEARConfig, SHEARTrainer  # noqa: E402
from tests.rollouts.conftest import char_with  # noqa: E402
from tests.rollouts.scripted import ScriptedPolicy, Shelf  # noqa: E402
from tests.rollouts.vllm_stand_in import LLM  # noqa: E402
from tests.rollouts.vllm_stand_in import engines as engines  # noqa: E402
from tests.rollouts.vllm_stand_in import vllm as vllm  # noqa: E402
from tests.shared import ON_CPU  # noqa: E402

SHELF = Shelf({"ann": ["Zq | PASSAGE about ANN."], "bob": ["Zq | PASSAGE about BOB.", "Zq | PASSAGE two."]})
OPTIONS = SearchOptions(
    max_turn_tokens=24, max_answer_tokens=6, max_hops=2, instruction="Q: {question}", answer_request="Now?"
)
LONGEST = 220


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory, chars: Any) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("random-model")
    chars.save_pretrained(folder)
    tiny_model(chars, hidden=32, layers=2).save_pretrained(folder)
    return folder


class Careless(ScriptedPolicy):
    """Searches or not, for one thing or the other, and answers in a digit: told by the seed of each draw."""

    def _generation(self, draw: Draw) -> Generation:
        rng = random.Random(draw.seed)
        turns = ["<QUERY> ann", "<FACT> a\n<QUERY> bob", "<FACT> b\n<FINAL>", "no action"]
        asked = self.tokenizer.decode(draw.prompt_ids).endswith("user\nNow?<|im_end|>\n<|im_start|>assistant\n")
        self.say = lambda prompt: str(rng.randrange(10)) if asked else rng.choice(turns)
        return super()._generation(draw)


@contextmanager
def careless(trainer: Any) -> Iterator[Policy]:
    yield Careless(trainer.processing_class, lambda prompt: "")


SEEN: list[dict[str, Any]] = []


def even(completions: list[str], **columns: Any) -> list[float]:
    """Reward an even final answer; keep what the reward was shown."""
    SEEN.append({"completions": completions, **columns})
    return [
        float(answer is not None and answer.isdigit() and int(answer) % 2 == 0) for answer in columns["final_answer"]
    ]


class Watched(SHEARTrainer):
    """Keeps the batches that the loss will see."""

    def annotate(self, inputs: list[dict[str, Any]], rollouts: dict[str, Any]) -> dict[str, Any]:
        batches = self.__dict__.setdefault("batches", [])
        batches.append(super().annotate(inputs, rollouts))
        return batches[-1]


def arguments(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        **ON_CPU,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": LONGEST,
    } | changes


def dataset() -> Dataset:
    return Dataset.from_list([{"prompt": f"who is {name}?", "answer": "gold"} for name in ("ann", "bob") * 8])


def rollout_of(chars: Any) -> SearchRollout:
    return SearchRollout(ChatFrame(chars, markers=("<QUERY>", "<SEARCH>", "<FACT>", "<FINAL>")), SHELF, OPTIONS)


@pytest.fixture(scope="module")
def shear(model_folder: Path, tmp_path_factory: pytest.TempPathFactory, chars: Any) -> Any:
    """Two steps of SHEAR on search rollouts."""
    torch.set_num_threads(1)
    SEEN.clear()
    args = SHEARConfig(**arguments(tmp_path_factory.mktemp("run"), credit="shear", window=8, stride=4))
    trainer = Watched(
        str(model_folder),
        reward_funcs=even,
        args=args,
        train_dataset=dataset(),
        processing_class=chars,
        rollout_func=as_rollout_func(rollout_of(chars), policy=careless),
    )
    trainer.train()
    return trainer


def test_shear_trains_on_what_was_said_and_on_nothing_that_was_shown(shear: Any) -> None:
    batch = shear.batches[0]
    decode = shear.processing_class.decode
    trained = (batch["completion_mask"] * batch["tool_mask"]).bool()
    environment = (batch["completion_mask"] * (1 - batch["tool_mask"])).bool()
    said = "".join(decode(ids[keep]) for ids, keep in zip(batch["completion_ids"], trained, strict=True))
    shown = "".join(decode(ids[keep]) for ids, keep in zip(batch["completion_ids"], environment, strict=True))
    assert "PASSAGE" in shown
    for text in ("PASSAGE", "Zq", "ANN", "BOB", "<SEARCH>", "Now?", "user", "assistant", "Title"):
        assert text not in said
    for text in ("<QUERY>", "<FACT>", "<FINAL>"):
        assert text in said
        assert text not in shown
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in shear.state.log_history if "loss" in row)
    assert any(row.get("grad_norm", 0) > 0 for row in shear.state.log_history)


def test_the_trainer_sees_the_trajectories_token_for_token(shear: Any, chars: Any) -> None:
    """Sampling the first batch again by its seeds gives the ids that were trained on."""
    batch, seen = shear.batches[0], SEEN[0]
    trainer = SimpleNamespace(**vars(shear))
    trainer.state = SimpleNamespace(global_step=0)
    output = as_rollout_func(rollout_of(chars), policy=careless)(seen["prompts"], trainer)
    width = batch["completion_ids"].size(1)
    for row, (prompt, ids, mask) in enumerate(
        zip(output["prompt_ids"], output["completion_ids"], output["env_mask"], strict=True)
    ):
        assert batch["prompt_ids"][row].tolist()[-len(prompt) :] == prompt
        assert batch["completion_ids"][row].tolist() == ids + [chars.pad_token_id] * (width - len(ids))
        assert (batch["completion_mask"] * batch["tool_mask"])[row].tolist() == mask + [0] * (width - len(ids))


def test_credit_and_gradient_stay_off_the_environment(shear: Any) -> None:
    batch = dict(shear.batches[0])
    off = (batch["completion_mask"] * batch["tool_mask"]) == 0
    assert batch["advantages"].shape == off.shape
    assert (batch["advantages"] * ~off).abs().sum() > 0

    def gradient(advantages: Any) -> list[Any]:
        shear.model.zero_grad()
        shear.compute_loss(shear.model, {**batch, "advantages": advantages}).backward()
        return [parameter.grad.clone() for parameter in shear.model.parameters()]

    loud = batch["advantages"] + 1e3 * off
    assert all(map(torch.equal, gradient(batch["advantages"]), gradient(loud)))
    assert not all(map(torch.equal, gradient(batch["advantages"]), gradient(loud + ~off)))


def test_equal_prompts_are_sampled_differently_and_rewards_see_how_it_went(shear: Any) -> None:
    seen = SEEN[0]
    assert seen["prompts"].count(seen["prompts"][0]) == 4
    assert len(set(map(str, zip(seen["queries"], seen["final_answer"], strict=True)))) > 4
    assert set(seen["finish"]) <= set(map(str, FinishReason))
    assert seen["hops"] == [len(queries) for queries in seen["queries"]]
    assert seen["answer"] == ["gold"] * 8
    assert "id" not in seen


@pytest.mark.parametrize("seed", [42, 43])
def test_a_run_can_be_repeated_under_stock_grpo(model_folder: Path, tmp_path: Path, chars: Any, seed: int) -> None:
    """With the trainer's own model as the policy: its turns become queries, whatever they are."""

    class Eager(ChatFrame):
        def decode(self, ids: Sequence[int]) -> str:
            return f"<QUERY> {super().decode(ids)}"

    class Anything(Shelf):
        def search(self, queries: Sequence[str], k: int) -> Any:
            return Shelf({query: ["Zq | PASSAGE."] for query in queries}).search(queries, k)

    SEEN.clear()
    frame = Eager(chars, markers=("<QUERY>", "<SEARCH>", "<FACT>", "<FINAL>"))
    for run in ("one", "two"):
        torch.set_num_threads(1)
        trainer = GRPOTrainer(
            str(model_folder),
            reward_funcs=lambda completions, queries, **_: [float(len(q)) for q in queries],
            args=GRPOConfig(**arguments(tmp_path / run, seed=seed)),
            train_dataset=dataset(),
            processing_class=chars,
            rollout_func=watch(as_rollout_func(SearchRollout(frame, Anything({}), OPTIONS))),
        )
        trainer.train()
        assert all(torch.isfinite(torch.tensor(row["loss"])) for row in trainer.state.log_history if "loss" in row)
    one, two = SEEN[: len(SEEN) // 2], SEEN[len(SEEN) // 2 :]
    assert one == two
    assert any(0 in mask for output in one for mask in output["env_mask"])
    assert len({str(ids) for ids in one[0]["completion_ids"]}) == 8
    assert all(len(ids) <= LONGEST for output in one for ids in output["completion_ids"])


def watch(rollout_func: Any) -> Any:
    def watched(prompts: list[Any], trainer: Any) -> Any:
        SEEN.append(rollout_func(prompts, trainer))
        return SEEN[-1]

    return watched


def stand_in(**changes: Any) -> Any:
    """What the adapter reads of a trainer."""
    args = {
        "seed": 0,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": None,
        "min_p": None,
        "repetition_penalty": 1.0,
        "generation_kwargs": None,
        "vllm_structured_outputs_regex": None,
        "max_completion_length": 10,
        "use_vllm": False,
    } | changes
    return SimpleNamespace(
        args=SimpleNamespace(**args),
        state=SimpleNamespace(global_step=3),
        accelerator=SimpleNamespace(process_index=0),
    )


@contextmanager
def no_policy(trainer: Any) -> Iterator[Any]:
    yield None


def test_rows_seeds_and_sampling_reach_the_rollout() -> None:
    got: list[Any] = []

    def rollout(rows: list[dict[str, Any]], policy: Any, sampling: Sampling) -> list[Trajectory]:
        got.append((rows, sampling))
        return [fixed([1]) for _ in rows]

    rollout_func = as_rollout_func(rollout, policy=no_policy)
    conversation = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    output = rollout_func(["q", "q", conversation], stand_in())
    (rows, sampling) = got[0]
    assert sampling == Sampling(0.5, 0.9, 0)
    assert [(row["question"], row["system"]) for row in rows] == [("q", None), ("q", None), ("u", "s")]
    assert {row["max_completion_tokens"] for row in rows} == {10}
    assert len({row["seed"] for row in rows}) == 3
    assert output["finish"] == ["stop"] * 3
    rollout_func(["q", "q", conversation], stand_in(seed=1))
    rollout_func(["q", "q", conversation], stand_in())
    assert got[2][0] == rows
    assert not {row["seed"] for row in got[1][0]} & {row["seed"] for row in rows}


def fixed(ids: list[int], **changes: Any) -> Trajectory:
    return replace(Trajectory([1], [Segment(ids, True, "act")], FinishReason.STOP, {"hops": 1}), **changes)


@pytest.mark.parametrize(
    ("trajectories", "message"),
    [
        ([], "0 trajectories for 1 prompts"),
        ([fixed([1], branches=[fixed([2])])], "1 branches.*select"),
        ([fixed([])], "is empty.*max_tokens"),
        ([fixed([1] * 11)], "11 tokens.*max_completion_length=10"),
    ],
)
def test_what_cannot_be_trained_is_refused(trajectories: list[Trajectory], message: str) -> None:
    rollout_func = as_rollout_func(lambda rows, policy, sampling: trajectories, policy=no_policy)
    with pytest.raises(ValueError, match=message):
        rollout_func(["q"], stand_in())


def test_what_a_cut_trajectory_has_is_returned() -> None:
    cut = fixed([4, 5], finish=FinishReason.LENGTH, fields={})
    rollout_func = as_rollout_func(lambda rows, policy, sampling: [cut, fixed([6])], policy=no_policy)
    output = rollout_func(["q", "r"], stand_in())
    assert output["completion_ids"] == [[4, 5], [6]]
    assert output["finish"] == ["length", "stop"]
    assert output["hops"] == [None, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"min_p": 0.1},
        {"repetition_penalty": 1.2},
        {"generation_kwargs": {"a": 1}},
        {"vllm_structured_outputs_regex": "a+"},
    ],
)
def test_sampling_that_a_policy_does_not_know_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        as_rollout_func(lambda *_: [], policy=no_policy)(["q"], stand_in(**changes))


@pytest.mark.parametrize("sleeps", [False, True])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7, "top_p": 0.9}])
def test_a_colocated_vllm_samples_what_is_trained(
    engines: list[LLM], sleeps: bool, sampling: dict[str, Any], model_folder: Path, tmp_path: Path, chars: Any
) -> None:
    """The engine has the trainer's weights at every rollout, so TRL's correction finds nothing to correct."""
    torch.set_num_threads(1)
    agree: list[bool] = []

    def rollout(rows: list[dict[str, Any]], policy: Any, asked: Sampling) -> list[Trajectory]:
        ours, theirs = trainer.model.state_dict(), policy.llm.network.state_dict()
        agree.append(all(torch.equal(ours[name], theirs[name]) for name in ours))
        return single_turn(rows, policy, asked, frame=ChatFrame(chars))

    trainer = GRPOTrainer(
        str(model_folder),
        reward_funcs=lambda completions, **_: [float(len(set(text)) % 2) for text in completions],
        args=GRPOConfig(
            **arguments(tmp_path, max_completion_length=8, use_vllm=True, vllm_mode="colocate", **sampling),
            vllm_enable_sleep_mode=sleeps,
        ),
        train_dataset=dataset(),
        processing_class=chars,
        rollout_func=as_rollout_func(rollout),
    )
    trainer.train()
    assert agree == [True, True]
    assert engines[0].heard.count("weights") == 2, "TRL has pushed them"
    assert bool(engines[0].asleep) == sleeps
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logged) == 2
    for row in logged:
        assert row["sampling/importance_sampling_ratio/min"] == pytest.approx(1, abs=1e-3)
        assert row["sampling/importance_sampling_ratio/max"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("mode", "size"), [("server", 1), ("colocate", 2)])
def test_an_engine_that_is_not_this_process_alone_is_refused(
    mode: str, size: int, monkeypatch: pytest.MonkeyPatch, chars: Any
) -> None:
    monkeypatch.setattr(adapter.compat, "pad_and_stop_ids", lambda trainer: (0, {1}))
    trainer = stand_in(use_vllm=True)
    trainer.processing_class = chars
    trainer.vllm_generation = SimpleNamespace(mode=mode, tensor_parallel_size=size)
    with pytest.raises(ValueError, match=rf"vllm_mode='{mode}'.*--vllm_mode colocate.*ServerPolicy"):
        as_rollout_func(lambda *_: [])(["q"], trainer)


def test_the_template_end_of_turn_stops_a_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama 3 ends a turn with another token than its tokenizer's end of sequence."""
    tokenizer = char_with("llama")
    monkeypatch.setattr(adapter.compat, "pad_and_stop_ids", lambda trainer: (0, {tokenizer.eos_token_id}))
    monkeypatch.setattr(adapter.compat, "generation_model", no_policy)
    monkeypatch.setattr(transformers_policy, "TransformersPolicy", lambda model, **settings: settings)
    trainer = stand_in()
    trainer.processing_class = tokenizer
    with adapter.trainer_policy(trainer, batch_size=7) as settings:
        ends = tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"])
        assert settings == {"stop_ids": set(ends), "pad_id": 0, "batch_size": 7}
    tokenizer.chat_template = None
    with adapter.trainer_policy(trainer) as settings:
        assert settings["stop_ids"] == {tokenizer.eos_token_id}


def test_a_prompt_that_is_no_question_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\['user', 'assistant'\].*row_of"):
        question_row([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])


def test_a_plain_function_is_a_rollout_too(chars: Any) -> None:
    frame = ChatFrame(chars)

    @contextmanager
    def scripted(trainer: Any) -> Iterator[Policy]:
        yield ScriptedPolicy(chars, lambda prompt: "four and more")

    rollout_func = as_rollout_func(partial(single_turn, frame=frame), policy=scripted)
    output = rollout_func(["2+2="], stand_in())
    assert output["final_answer"] == ["four and m"]
    assert output["finish"] == ["length"]
    assert output["env_mask"] == [[1] * 10]
