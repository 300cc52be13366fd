"""Sampling from an OpenAI-compatible `/v1/completions` server that takes and gives token ids (vLLM, SGLang).

Each draw is one request with its own seed, sent with `return_token_ids`, so that no text is ever tokenised again.
vLLM from 0.10.2 and SGLang answer with `choices[0].token_ids`; an older vLLM answers `token_id:123` in the place of
tokens (`return_tokens_as_token_ids`), which is read as well. No torch is imported.
"""

import http.client
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence, Set
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

from rlft.rollouts.drawing import LogprobsAre, check_draws, check_logprobs, generation_of, refuse_grammars
from rlft.rollouts.policy import Draw, Generation, Sampling

FIRST_PAUSE = 0.5
"""Seconds before the first retry; doubled before each further one."""
SHOWN = 500
"""Characters of an answer that an error message quotes."""


class ServerError(RuntimeError):
    """A completion that the server could not or did not give; the message says what to change."""


def server_root(url: str) -> str:
    """The address of a server without `/v1` and what may follow it.

    Raises:
        ValueError: for a URL that is not http(s).
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"url={url!r}; write the server's address as in http://localhost:8000.")
    return url.rstrip("/").removesuffix("/completions").removesuffix("/v1")


class ServerPolicy:
    """A completions server as a policy. The server holds the weights: whoever trains them has to push them there."""

    def __init__(
        self,
        url: str,
        model: str,
        stop_ids: Set[int],
        api_key: str | None = None,
        *,
        timeout: float = 300.0,
        retries: int = 5,
        concurrency: int = 64,
        logprobs_are: LogprobsAre = "raw",
        own_logprobs: bool = False,
        ignore_eos: bool = True,
    ) -> None:
        """
        Args:
            url: of the server, such as `http://localhost:8000`, with or without `/v1`.
            model: name under which the server serves the model.
            stop_ids: ids that end a continuation.
            api_key: sent as bearer token.
            timeout: seconds that a request may take.
            retries: further attempts after a lost connection, a time-out, a 429 or a 5xx.
            concurrency: requests in flight.
            logprobs_are: what the server's log-probabilities are of: `raw` for vLLM as it starts, `processed` for vLLM
                with `--logprobs-mode processed_logprobs`, `scaled` for SGLang.
            own_logprobs: give the server's log-probabilities as they are, for a caller that reads none or wants just
                those, instead of refusing a sampling for which they are not those that `Generation` promises.
            ignore_eos: let only `stop_ids` end a continuation. False for SGLang, where it would switch off stop ids
                too; all end ids of the model then have to be among `stop_ids`.

        Raises:
            ValueError: for a URL that is not http(s), or settings below their smallest value.
        """
        self.url = server_root(url) + "/v1/completions"
        if timeout <= 0 or retries < 0 or concurrency < 1:
            raise ValueError(
                f"timeout={timeout}, retries={retries}, concurrency={concurrency}; they must be above 0, at least 0 "
                "and at least 1."
            )
        self.model, self.stop_ids, self.ignore_eos = model, frozenset(stop_ids), ignore_eos
        # `scaled` is what `Generation` promises, so nothing but the temperature is refused then.
        self.logprobs_are: LogprobsAre = "scaled" if own_logprobs else logprobs_are
        self.timeout, self.retries, self.concurrency = timeout, retries, concurrency
        self.api_key = api_key

    def generate(self, draws: Sequence[Draw], sampling: Sampling) -> list[Generation]:
        """One generation per draw, in order.

        Raises:
            ValueError: for an empty prompt, a cap below 1, a draw under a grammar, or a sampling whose
                log-probabilities the server does not give, before anything is sent.
            ServerError: if one draw fails; no further requests are sent then.
        """
        check_draws(draws)
        check_logprobs(sampling, self.logprobs_are)
        refuse_grammars(draws, self)
        given_up = threading.Event()
        failures: list[Exception] = []

        def one(draw: Draw) -> Generation:
            try:
                return self._read(draw, self._post(self._request(draw, sampling), given_up))
            except Exception as error:
                failures.append(error)
                given_up.set()
                raise

        with ThreadPoolExecutor(max_workers=self.concurrency, thread_name_prefix="completions") as pool:
            futures = [pool.submit(one, draw) for draw in draws]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                given_up.set()
                pool.shutdown(wait=False, cancel_futures=True)
        if failures:
            raise failures[0]
        return [future.result() for future in futures]

    def _request(self, draw: Draw, sampling: Sampling) -> dict[str, Any]:
        # Servers fill what is left out from the model's generation config.
        return {
            "model": self.model,
            "prompt": draw.prompt_ids,
            "max_tokens": draw.max_new_tokens,
            "seed": draw.seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": sampling.repetition_penalty,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": sorted(self.stop_ids),
            "ignore_eos": self.ignore_eos,
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "logprobs": 1,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }

    def _post(self, payload: dict[str, Any], given_up: threading.Event) -> bytes:
        return post(self.url, payload, self.api_key, timeout=self.timeout, retries=self.retries, given_up=given_up)

    def _read(self, draw: Draw, body: bytes) -> Generation:
        try:
            choice = json.loads(body)["choices"][0]
            ids, reason = _token_ids(choice), choice["finish_reason"]
            logprobs = [float(value) for value in choice["logprobs"]["token_logprobs"]]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ServerError(
                f"{self.url} answered what is no completion with log-probabilities "
                f"({type(error).__name__}: {error}): {body[:SHOWN].decode(errors='replace')}"
            ) from error
        stop = choice.get("stop_reason", choice.get("matched_stop"))
        if reason == "stop" and stop in self.stop_ids and ids[-1:] != [stop] and len(logprobs) == len(ids) + 1:
            ids.append(stop)  # a server that gives the stop token's log-probability but leaves out its id
        try:
            return generation_of(draw, ids, logprobs, self.stop_ids)
        except RuntimeError as error:
            raise ServerError(f"{self.url} (finish_reason {reason!r}): {error}") from error


def post(
    url: str,
    payload: dict[str, Any],
    api_key: str | None,
    *,
    timeout: float,
    retries: int = 5,
    given_up: threading.Event | None = None,
) -> bytes:
    """What a server answers to a JSON object.

    Args:
        url: of the endpoint.
        payload: the object.
        api_key: sent as bearer token.
        timeout: seconds that an attempt may take.
        retries: further attempts after a lost connection, a time-out, a 429 or a 5xx, each after twice the pause.
        given_up: once set, nothing more is sent.

    Raises:
        ServerError: if the server refuses, with what it said, or if all attempts fail.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    given_up = given_up or threading.Event()
    for attempt in range(retries + 1):
        if given_up.is_set():
            raise ServerError("not sent, since another draw failed.")
        request = urllib.request.Request(url, json.dumps(payload).encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            seen = f"HTTP {error.code}: {error.read().decode(errors='replace')[:SHOWN]}"
            if error.code != 429 and error.code < 500:
                raise ServerError(f"{url} refused the request with {seen}") from error
        except (OSError, http.client.HTTPException) as error:
            seen = f"{type(error).__name__}: {error}"
        if attempt < retries:
            given_up.wait(FIRST_PAUSE * 2**attempt)
    raise ServerError(
        f"{url} failed {retries + 1} times, last with {seen}. Is the server up? Raise timeout or retries, or lower "
        "concurrency."
    )


def _token_ids(choice: dict[str, Any]) -> list[int]:
    """Ids of a choice, from its own field or from tokens written as `token_id:123`.

    Raises:
        ServerError: if the server gives text only.
    """
    if choice.get("token_ids") is not None:
        return [int(token) for token in choice["token_ids"]]
    tokens = (choice.get("logprobs") or {}).get("tokens")
    if tokens and all(token.startswith("token_id:") for token in tokens):
        return [int(token.removeprefix("token_id:")) for token in tokens]
    raise ServerError(
        "the server gave text but no token ids, and text is never tokenised a second time: it has to know the request "
        "field return_token_ids (vLLM from 0.10.2, SGLang) or return_tokens_as_token_ids (older vLLM)."
    )
