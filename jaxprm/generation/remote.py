"""A policy behind an OpenAI-compatible completions endpoint (vLLM, SGLang, llama.cpp, hosted models).

Servers time out, answer nonsense and give fewer samples than asked for. A request is tried again, with longer and longer
pauses; what is still missing then leaves its path without a step, counted in the session's ``warnings``, and all other paths
go on. Only what would fail for every problem (no such host, model or key) ends the run, with one line.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import math
import os
import random
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxprm.errors import InputError
from jaxprm.generation.sampler import SamplingConfig
from jaxprm.generation.text import Ahead, Ending, Part, Paths, StepSample, problem_seed
from jaxprm.records import Problem
from jaxprm.steps.format import StepFormat

_LARGEST_REPLY = 1 << 26
_LONGEST_PAUSE = 60.0
_HOPELESS = {401: "the endpoint refuses the key", 403: "the endpoint refuses the key", 404: "no such endpoint or model"}
_ABSENT = object()


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where a policy is served.

    Attributes:
      url: its base, such as ``http://localhost:8000/v1``; requests go to ``URL/completions``.
      model: the name it is served by.
      key_variable: environment variable that holds the key; "" = none is sent.
      concurrency: requests under way at a time.
      timeout: seconds after which a request counts as failed.
      retries: further attempts of a request that failed, or gave fewer samples than asked for.
      backoff: seconds before the first further attempt; doubled for each next one (at most a minute).
      log_probs: ask for the log-probabilities of tokens.
    """

    url: str
    model: str
    key_variable: str = ""
    concurrency: int = 16
    timeout: float = 120.0
    retries: int = 4
    backoff: float = 0.5
    log_probs: bool = True

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise InputError("must begin with http:// or https://", field="url", value=self.url)
        if not self.model:
            raise InputError("must not be empty", field="model", value=self.model)
        if self.concurrency < 1:
            raise InputError("must be at least 1", field="concurrency", value=self.concurrency)
        if self.retries < 0:
            raise InputError("must not be negative", field="retries", value=self.retries)
        for field in ("timeout", "backoff"):
            if not 0 < getattr(self, field) < float("inf"):
                raise InputError("must be a positive number of seconds", field=field, value=getattr(self, field))


class _Failed(Exception):
    """An attempt that may be repeated; ``pause``: seconds that the server asked for."""

    def __init__(self, reason: str, pause: float = 0.0, *, again: bool = True, nobody: bool = False):
        super().__init__(reason)
        self.pause, self.again, self.nobody = pause, again, nobody


class RemotePolicy:
    """A `TextPolicy` behind an endpoint.

    Args:
      endpoint: where it is.
      step_format: how a problem and its steps become the prompt text (prefix, suffix, separator). The separator is the stop
        string, at which a step ends.
      max_step_tokens: most tokens of a step.
      sampling: how tokens are drawn; ``top_k`` is sent only where it is set (not every server knows it).
      end_text: a solution has ended with the step that contains this text (such as ``\\\\boxed``); "" = by the server's word.
      sleep: called with the seconds of a pause.

    Whether a step or the whole solution has ended is read from ``stop_reason`` (vLLM) or ``matched_stop`` (SGLang). A server
    without either ends a solution by an empty step, or by ``end_text``.

    Raises (at construction):
      InputError: no separator to stop at, or the key's variable is not set.
    """

    def __init__(self, endpoint: Endpoint, step_format: StepFormat, *, max_step_tokens: int,
                 sampling: SamplingConfig = SamplingConfig(), end_text: str = "",
                 sleep: Callable[[float], None] = time.sleep):
        if not step_format.separator:
            raise InputError("must not be empty: an endpoint stops at it", field="separator", value="")
        if max_step_tokens < 1:
            raise InputError("must be at least 1", field="max_step_tokens", value=max_step_tokens)
        self.endpoint, self.format, self.sampling = endpoint, step_format, sampling
        self.max_step_tokens, self.end_text, self._sleep = max_step_tokens, end_text, sleep
        self._headers = {"Content-Type": "application/json"}
        if endpoint.key_variable:
            key = os.environ.get(endpoint.key_variable)
            if not key:
                raise InputError("this environment variable is not set", field="key_variable", value=endpoint.key_variable)
            self._headers["Authorization"] = f"Bearer {key}"

    def begin(self, problems: Sequence[Problem], width: int, seed: int) -> RemoteSession:
        return RemoteSession(self, problems, width, seed)

    def prompt(self, problem: Problem, steps: Sequence[str]) -> str:
        """The text that the endpoint continues."""
        opening = self.format.prompt_prefix + problem.prompt + self.format.prompt_suffix
        return opening + "".join(step + self.format.separator for step in steps)

    def ask(self, prompt: str, n: int, seed: int, greedy: bool = False, begun: str = "",
            limit: int | None = None) -> tuple[list[StepSample], int, Counter[str]]:
        """Up to ``n`` next steps behind a prompt, the requests that were sent, and what went wrong, counted.

        Args:
          greedy: of the most likely tokens, whatever the policy's temperature.
          begun: text that the steps begin with; their tokens and log-probabilities are those behind it.
          limit: most tokens, where they are fewer than those of a step.

        Raises:
          InputError: what would fail for every prompt.
        """
        samples: list[StepSample] = []
        warnings: Counter[str] = Counter()
        wait = self.endpoint.backoff
        begun = begun.rstrip("\ufffd")  # a beginning may stop inside a character
        sampling = dataclasses.replace(self.sampling, temperature=0.0) if greedy else self.sampling
        greedy = sampling.temperature == 0  # all samples are the same one
        for attempt in range(self.endpoint.retries + 1):
            missing = 1 if greedy else n - len(samples)
            try:
                found = self._attempt(prompt, begun, missing, limit, seed + attempt, sampling, warnings)
            except _Failed as error:
                warnings[f"endpoint: {error}"] += 1
                if attempt == self.endpoint.retries and error.nobody:
                    raise InputError(f"cannot be reached ({error})", field="url", value=self.endpoint.url,
                                     hint="start the server; the same command goes on") from None
                if not error.again:
                    break
                if attempt < self.endpoint.retries:
                    # Not in step: requests that failed together should not come back together.
                    self._sleep(min(max(error.pause, wait * random.uniform(1.0, 1.5)), _LONGEST_PAUSE))
                    wait *= 2
                continue
            samples += found[:missing] * (n if greedy else 1)
            if len(samples) >= n:
                break
            warnings["endpoint: fewer samples than asked for"] += 1
        if len(samples) < n:
            warnings["endpoint: steps given up"] += n - len(samples)
        return samples[:n], attempt + 1, warnings

    def _attempt(self, prompt: str, begun: str, n: int, limit: int | None, seed: int, sampling: SamplingConfig,
                 warnings: Counter[str]) -> list[StepSample]:
        body = {"model": self.endpoint.model, "prompt": prompt + begun, "n": n,
                "max_tokens": self.max_step_tokens if limit is None else limit, "temperature": sampling.temperature,
                "top_p": sampling.top_p, "stop": [self.format.separator], "seed": seed % 2**31}
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if self.endpoint.log_probs:
            body["logprobs"] = 0
        reply = self._post(json.dumps(body).encode())
        try:
            return self._read(json.loads(reply), begun, warnings)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise _Failed("reply is not what a completions endpoint sends") from None

    def _post(self, body: bytes) -> bytes:
        endpoint = self.endpoint
        request = urllib.request.Request(f"{endpoint.url.rstrip('/')}/completions", body, self._headers)
        deadline = time.monotonic() + endpoint.timeout
        try:
            with urllib.request.urlopen(request, timeout=endpoint.timeout) as response:
                parts, size = [], 0
                while part := response.read1(1 << 16):  # a reply that trickles in must not outlast the deadline
                    parts.append(part)
                    size += len(part)
                    if size > _LARGEST_REPLY:
                        raise _Failed("reply is too large")
                    if time.monotonic() > deadline:
                        raise TimeoutError
                return b"".join(parts)
        except urllib.error.HTTPError as error:
            said = _message(error)
            if error.code in _HOPELESS:
                raise InputError(f"{_HOPELESS[error.code]} (HTTP {error.code}{said})", field="url", value=endpoint.url,
                                 hint="check url, model and key_variable") from None
            passing = error.code in (408, 409, 425, 429) or error.code >= 500
            raise _Failed(f"HTTP {error.code}" + ("" if passing else said), _retry_after(error), again=passing) from None
        except TimeoutError:
            raise _Failed("timed out") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _Failed("timed out") from None
            raise _Failed(f"no connection: {error.reason}", nobody=True) from None
        except (http.client.HTTPException, OSError) as error:
            raise _Failed(f"connection broke: {type(error).__name__}") from None

    def _read(self, reply: Any, begun: str, warnings: Counter[str]) -> list[StepSample]:
        choices = reply["choices"]
        used = (reply.get("usage") or {}).get("completion_tokens")
        samples = []
        for place, choice in enumerate(choices):
            text, ending = self._ending(begun + choice["text"], choice)
            values = [float(value) for value in (choice.get("logprobs") or {}).get("token_logprobs") or []]
            if not all(map(math.isfinite, values)):
                raise ValueError("log-probabilities")
            tokens = len(values)
            if not values and used is not None:  # counted for all choices together
                tokens = int(used) // len(choices) + (place < int(used) % len(choices))
            elif not values:
                tokens = len(choice["text"].split())
                warnings["endpoint: tokens not counted, words taken instead"] += 1
            samples.append(StepSample(text, tokens, ending, sum(values) if values else None))
        return samples

    def _ending(self, text: str, choice: dict) -> tuple[str, Ending]:
        reason = choice["finish_reason"]
        # A server may keep the stop string, or not know it; nor does it see one that is there in part when it goes on.
        text, separator, _ = text.partition(self.format.separator)
        if separator or reason == "stop":
            said = choice.get("stop_reason", choice.get("matched_stop", _ABSENT))
            by_string = bool(separator) or isinstance(said, str) or (said is _ABSENT and text.strip() != "")
            return text, "step" if by_string and not (self.end_text and self.end_text in text) else "solution"
        return text, "cut"


class RemoteSession:
    """Paths of a `RemotePolicy`; those of a problem that say the same so far are continued by one request."""

    def __init__(self, policy: RemotePolicy, problems: Sequence[Problem], width: int, seed: int):
        self._policy, self._problems, self._seed = policy, list(problems), seed
        self._paths = Paths(len(problems), width)
        self.forwards = np.zeros(len(problems), np.int64)
        self.warnings: list[Counter[str]] = [Counter() for _ in problems]

    def sample(self, level: int, active: Bool[np.ndarray, "B C"], ahead: Ahead | None = None,
               part: Part | None = None) -> list[list[StepSample | None]]:
        begun = self._paths.newest
        asked: dict[tuple[int, tuple[str, ...], str], list[int]] = {}
        for row, rows in enumerate(self._paths.steps):
            for place, steps in enumerate(rows):
                if active[row, place]:
                    beginning = begun[row][place].text if part is not None and part.rest else ""
                    asked.setdefault((row, steps, beginning), []).append(place)
        samples: list[list[StepSample | None]] = [[None] * len(rows) for rows in self._paths.steps]
        with ThreadPoolExecutor(self._policy.endpoint.concurrency, "endpoint") as workers:
            replies = [workers.submit(self._ask, *one, level, places, ahead, part) for one, places in asked.items()]
            try:
                for ((row, *_), places), reply in zip(asked.items(), replies):
                    found, requests, warnings = reply.result()
                    for place, sample in zip(places, found):
                        samples[row][place] = sample if part is None else _part(sample, part, begun[row][place])
                    self.forwards[row] += requests
                    self.warnings[row] += warnings
            except BaseException:
                workers.shutdown(wait=False, cancel_futures=True)
                raise
        self._paths.append(samples)
        return samples

    def _ask(self, row: int, steps: tuple[str, ...], beginning: str, level: int, places: Sequence[int], ahead: Ahead | None,
             part: Part | None):
        problem, limit = self._problems[row], None
        further = () if ahead is None else (1 + ahead.number,)
        if part is not None:
            further = (0,) if part.rest else ()
            limit = self._policy.max_step_tokens - part.tokens if part.rest else part.tokens
        seed = int(np.random.default_rng((self._seed, problem_seed(problem), level, places[0], *further)).integers(2**31))
        return self._policy.ask(self._policy.prompt(problem, steps), len(places), seed, ahead is not None and ahead.greedy,
                                beginning, limit)

    def gather(self, parents: Int[np.ndarray, "B C"]) -> None:
        self._paths.gather(parents)

    def mark(self) -> Any:
        return self._paths.steps

    def back(self, mark: Any) -> None:
        self._paths.steps = mark


def _part(sample: StepSample, part: Part, begun: StepSample | None) -> StepSample:
    """A reply as the part of a step that was asked for: a beginning, or the whole step with what its beginning cost."""
    if not part.rest:
        return dataclasses.replace(sample, ending="begun") if sample.ending == "cut" else sample
    known = begun.log_prob is not None and sample.log_prob is not None
    return dataclasses.replace(sample, tokens=begun.tokens + sample.tokens,
                               log_prob=begun.log_prob + sample.log_prob if known else None)


def _message(error: urllib.error.HTTPError) -> str:
    """What the server says of an error, shortened."""
    try:
        reply = json.loads(error.read(1 << 16))
        text = reply.get("message") or reply.get("error")
        text = text.get("message") if isinstance(text, dict) else text
    except (ValueError, AttributeError, OSError, http.client.HTTPException):
        return ""
    return f": {' '.join(text.split())[:160]}" if isinstance(text, str) else ""


def _retry_after(error: urllib.error.HTTPError) -> float:
    try:
        return max(float(error.headers.get("Retry-After", 0)), 0.0)
    except ValueError:  # a date
        return 0.0
