"""The samplers of an EM run: whose weights they sample, what they hold between rounds, and what a server is told."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from rlft import ExSearchTrainer
from rlft.retrieval import BM25Retriever
from rlft.rollouts import server_policy
from rlft.rollouts.policy import Draw, Sampling
from rlft.rollouts.store import read_shard
from rlft.tiny.tokenizer import char_tokenizer
from rlft.trainers.round_models import RoundModels
from rlft.trainers.samplers import Samplers, adapter_name
from tests.rollouts.completions_server import STOP, CompletionsServer, _Handler
from tests.rollouts.vllm_stand_in import LLM
from tests.rollouts.vllm_stand_in import engines as engines
from tests.rollouts.vllm_stand_in import vllm as vllm
from tests.trainers.search_runs import TASK, config, trainer

DRAWS = [Draw([5, 6, 7 + index % 3], seed=index, max_new_tokens=4) for index in range(6)]
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}


def samplers(sampler: str, **changes: Any) -> Samplers:
    args = {"max_tokens": 64, "sampler_memory": 0.4, "sampler_batch_size": 8, "sampler_timeout": 5.0}
    return Samplers(SimpleNamespace(sampler=sampler, **args, **changes), char_tokenizer(), frozenset({STOP}), pad_id=0)


@pytest.fixture(params=["lora", "whole"])
def models(request: pytest.FixtureRequest, random_model: Path) -> RoundModels:
    peft_config = LoraConfig(**LORA) if request.param == "lora" else None
    return RoundModels(str(random_model), peft_config, {"dtype": torch.bfloat16}, torch.device("cpu"))


def rounds(models: RoundModels, folder: Path) -> list[Path]:
    """Folders of two rounds with different weights."""
    made = []
    for number in range(2):
        model: Any = models.start(seed=number)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        made.append(folder / f"round-{number}")
        model.save_pretrained(str(made[-1]))
        char_tokenizer().save_pretrained(made[-1])
    return made


def same(engine: LLM, models: RoundModels, folder: Path) -> bool:
    """Whether an engine has the weights of a round, the adapter merged into them."""
    model: Any = models.load(folder)
    wanted = model.merge_and_unload() if models.peft_config else model
    ours = dict(engine.network.named_parameters())
    return all(torch.equal(ours[name], weights.float()) for name, weights in wanted.named_parameters())


def test_the_engine_samples_the_weights_of_the_round(engines: list[LLM], models: RoundModels, tmp_path: Path) -> None:
    first, second = rounds(models, tmp_path)
    sampler = samplers("vllm")
    for folder, other in ((first, second), (second, first)):
        sampler.policy(folder, models.load).generate(DRAWS, Sampling(0.7, top_p=0.9))
        assert same(engines[0], models, folder)
        assert not same(engines[0], models, other)
    assert len(engines) == 1
    base = models.base if models.peft_config else str(first)
    settings = engines[0].settings
    assert engines[0].path == base
    assert (settings["tensor_parallel_size"], settings["max_model_len"]) == (1, 64)
    assert (settings["gpu_memory_utilization"], settings["enable_sleep_mode"]) == (0.4, True)


def test_weights_are_moved_once_a_round_and_the_engine_sleeps_when_it_is_forgotten(
    engines: list[LLM], models: RoundModels, tmp_path: Path
) -> None:
    folder, _ = rounds(models, tmp_path)
    sampler = samplers("vllm")
    sampler.start(folder, models.load)
    sampler.start(folder, models.load)
    (engine,) = engines
    assert engine.heard == ["sleep"]
    for _ in range(2):
        for _shard in range(2):
            sampler.policy(folder, models.load).generate(DRAWS, Sampling())
        assert sampler._engine.model is None, "the model would stay in memory while the M-step trains"
        sampler.forget()
        sampler.forget()
    assert engine.heard == ["sleep", *["weights", "generate", "generate", "sleep"] * 2]


def test_the_model_comes_back_from_the_engine_bit_for_bit(
    engines: list[LLM], models: RoundModels, tmp_path: Path
) -> None:
    """Unmerging in bfloat16 rounds: an M-step that goes on with this model would train on another base."""
    folder, _ = rounds(models, tmp_path)
    model = models.load(folder)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    samplers("vllm").policy(folder, lambda _: model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(weights, before[name]) for name, weights in after.items())


def test_what_trl_reads_of_an_accelerator_is_given(engines: list[LLM], models: RoundModels, tmp_path: Path) -> None:
    from trl.generation import vllm_generation

    sampler = samplers("vllm")
    sampler.start(rounds(models, tmp_path)[0], models.load)
    read = set(re.findall(r"[^_]accelerator\.(\w+)", Path(vllm_generation.__file__).read_text()))
    assert read <= vars(sampler._engine.accelerator).keys()
    assert not sampler._engine._dist.is_fsdp
    assert not sampler._engine._dist.is_zero3


def test_a_run_with_vllm_draws_what_one_with_transformers_draws(engines: list[LLM], tmp_path: Path) -> None:
    """Round 1 samples a fresh adapter, which merges to the very same weights."""
    drawn = []
    for sampler in ("transformers", "vllm"):
        trainer(tmp_path / sampler, sampler=sampler, eval_sampled=False, questions_per_round=6).train()
        shards = sorted((tmp_path / sampler / "round-1").glob("trajectories-*"))
        drawn.append([(key, found.completion_ids) for path in shards for key, found in read_shard(path)])
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 24
    (engine,) = engines
    rounds_heard = "-".join(engine.heard).split("weights")
    assert len(rounds_heard) > 2
    assert rounds_heard[0] == "sleep-"
    assert all("generate" in heard and heard.endswith("sleep-") for heard in rounds_heard[1:-1])


class LoraServer(CompletionsServer):
    """vLLM's server as far as adapters go: the endpoints, what they refuse, and how."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = _LoraHandler
        self.updating, self.busy, self.loaded, self.told = True, 0, {}, []  # type: ignore[var-annotated]


class _LoraHandler(_Handler):
    server: LoraServer

    def do_POST(self) -> None:
        if "lora" not in self.path:
            super().do_POST()
            return
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            status, answer = self._adapters(self.path.rpartition("/")[2], request)
            self.server.told.append((self.path, request["lora_name"], self.headers["Authorization"], status))
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def _adapters(self, endpoint: str, request: dict[str, str]) -> tuple[int, str]:
        name, loaded = request["lora_name"], self.server.loaded
        if self.server.busy:
            self.server.busy -= 1
            return 503, "starting"
        if not self.server.updating:
            return 404, '{"detail":"Not Found"}'
        if endpoint == "load_lora_adapter":
            if name in loaded:
                return 400, f"The lora adapter '{name}' has already been loaded."
            loaded[name] = request["lora_path"]
            return 200, "Success"
        if name not in loaded:
            return 404, f"The lora adapter '{name}' cannot be found."
        del loaded[name]
        return 200, "Success"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoraServer]:
    monkeypatch.setattr(server_policy, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with LoraServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def adapter(folder: Path, content: str = "w") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_text(content)
    return folder


def nothing(folder: Path) -> Any:
    raise AssertionError("the server holds the model")


def test_the_server_samples_the_adapter_of_the_round(server: LoraServer, tmp_path: Path) -> None:
    first, second = adapter(tmp_path / "run/round-0"), adapter(tmp_path / "run/round-1")
    sampler = samplers("server", sampler_url=server.url + "/v1")
    got = sampler.policy(first, nothing).generate(DRAWS, Sampling(0.7, top_p=0.9))
    assert len(got) == len(DRAWS)
    assert {request["model"] for request in server.requests} == {adapter_name(first)}
    assert server.loaded == {adapter_name(first): str(first)}
    sampler.forget()
    sampler.policy(first, nothing)
    assert server.loaded == {adapter_name(first): str(first)}
    sampler.policy(second, nothing)
    assert server.loaded == {adapter_name(second): str(second)}
    assert sampler.policy(second, nothing).concurrency == 8  # type: ignore[attr-defined]


def test_several_processes_ask_for_the_same_adapter(server: LoraServer, tmp_path: Path) -> None:
    folders = [adapter(tmp_path / f"run/round-{number}") for number in range(3)]
    processes = [samplers("server", sampler_url=server.url) for _ in range(4)]
    for folder in folders:
        threads = [threading.Thread(target=one.policy, args=(folder, nothing)) for one in processes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.loaded == {adapter_name(folder): str(folder)}
        assert all(one._current and one._current[0] == folder for one in processes)


def test_adapters_of_other_runs_and_other_weights_have_other_names(tmp_path: Path) -> None:
    one = adapter_name(adapter(tmp_path / "a/run/round-1"))
    assert one == adapter_name(adapter(tmp_path / "a/run/round-1"))
    assert one.startswith("run-round-1-")
    assert one != adapter_name(adapter(tmp_path / "b/run/round-1"))
    assert one != adapter_name(adapter(tmp_path / "a/run/round-1", content="other"))


def test_the_key_comes_from_the_environment_alone(
    server: LoraServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret-1")
    sampler = samplers("server", sampler_url=server.url)
    sampler.policy(adapter(tmp_path / "run/round-0"), nothing).generate(DRAWS[:1], Sampling())
    assert server.told[0][2] == server.headers[0]["Authorization"] == "Bearer secret-1"
    settings = config(tmp_path, sampler="server", sampler_url=server.url)
    assert "secret-1" not in json.dumps(settings.to_dict(), default=str)


def test_a_server_that_does_not_take_adapters_is_named(server: LoraServer, tmp_path: Path) -> None:
    server.updating = False
    with pytest.raises(RuntimeError, match="HTTP 404.*round-0.*VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        samplers("server", sampler_url=server.url).policy(adapter(tmp_path / "run/round-0"), nothing)


def test_a_server_that_is_busy_is_asked_again(server: LoraServer, tmp_path: Path) -> None:
    server.busy = 2
    samplers("server", sampler_url=server.url).policy(adapter(tmp_path / "run/round-0"), nothing)
    assert [status for *_, status in server.told] == [503, 503, 200]


@pytest.mark.parametrize(
    ("peft_config", "changes", "message"),
    [
        (None, {"sampler": "server", "sampler_url": "http://127.0.0.1:1"}, "all parameters.*--sampler vllm"),
        (LoraConfig(**LORA, use_dora=True), {"sampler": "server", "sampler_url": "http://127.0.0.1:1"}, "use_dora"),
        (LoraConfig(**LORA), {"sampler": "vllm"}, "vllm is not installed.*pip install"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_is_loaded(
    peft_config: Any, changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlft.trainers.sampler_options.find_spec", lambda name: None)
    rows = Dataset.from_list(TASK.rows(2, 1, "dev"))
    with pytest.raises(ValueError, match=message):
        ExSearchTrainer(
            model=str(tmp_path / "no-model"),
            args=config(tmp_path, **changes),
            train_dataset=rows,
            eval_dataset=rows,
            retriever=BM25Retriever.over(TASK.passages()),
            peft_config=peft_config,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "server"}, "server needs the URL"),
        ({"sampler": "server", "sampler_url": "host:8000"}, "http://localhost:8000"),
        ({"sampler": "vllm", "sampler_memory": 1.5}, "sampler_memory=1.5 must be between 0 and 1"),
        ({"sampler_timeout": 0.0}, "sampler_timeout=0.0 above 0"),
        ({"sampler": "vllm", "temperature": 0.001}, "temperature=0.001.*at least 0.01"),
        ({"sampler": "continuous", "top_p": 0.9}, "top_p=0.9"),
    ],
)
def test_settings_that_cannot_be_meant(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


@pytest.mark.parametrize("changes", [{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5, "temperature": 0.7}])
def test_em_reads_no_logprobs_and_samples_at_any_setting(changes: dict[str, Any], tmp_path: Path) -> None:
    for sampler in ({"sampler": "vllm"}, {"sampler": "server", "sampler_url": "http://127.0.0.1:1"}):
        assert config(tmp_path, **sampler, **changes)
