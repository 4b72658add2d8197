"""`RemotePolicy` against a stand-in server that does what servers do: time out, answer nonsense, give fewer samples."""

import collections
import http.server
import json
import threading
import time

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.generation.remote import Endpoint, RemotePolicy
from jaxprm.generation.sampler import SamplingConfig
from jaxprm.generation.text import Part
from jaxprm.records import Problem
from jaxprm.steps import StepFormat

FORMAT = StepFormat(prompt_prefix="Q: ", prompt_suffix="\nA: ", separator="\n")


class StandIn:
    """A completions endpoint. ``script``: what to do with the first requests; ``reply`` is used for all further ones."""

    def __init__(self):
        self.script, self.requests, self.lock = collections.deque(), [], threading.Lock()
        self.reply, self.slow = self.complete, threading.Event()
        stand_in = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stand_in.lock:
                    stand_in.requests.append((self.path, dict(self.headers), body))
                    action = stand_in.script.popleft() if stand_in.script else stand_in.reply
                status, headers, content = action(body) if callable(action) else action
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                if status is None:  # hang up without a word
                    return
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # the client has given up waiting

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def complete(self, body, count=None):
        """As vLLM: even choices end a step, odd ones the solution; the text says how long the prompt was and the place."""
        choices = [{"index": i, "text": f"{len(body['prompt'])}.{i}", "finish_reason": "stop",
                    "stop_reason": None if i % 2 else body["stop"][0],
                    "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-1.0, -0.5 - i]}}
                   for i in range(body["n"] if count is None else count)]
        return 200, {}, {"choices": choices, "usage": {"completion_tokens": 2 * len(choices)}}

    def hang(self, body):
        self.slow.wait(5)
        return self.complete(body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    stand_in = StandIn()
    yield stand_in
    stand_in.slow.set()
    stand_in.server.shutdown()
    stand_in.server.server_close()


def policy(server, pauses=None, sampling=SamplingConfig(0.7), end_text="", step_format=FORMAT, **fields):
    settings = {"url": server.url, "model": "m", "timeout": 5.0, "retries": 3, "backoff": 0.25}
    return RemotePolicy(Endpoint(**(settings | fields)), step_format, max_step_tokens=32, sampling=sampling, end_text=end_text,
                        sleep=(pauses if pauses is not None else []).append)


def begin(server, problems=("1+1", "2+2"), width=2, seed=0, **fields):
    return policy(server, **fields).begin([Problem(text, text) for text in problems], width, seed)


def everyone(session, problems, width):
    return session.sample(0, np.ones((problems, width), bool))


def test_paths_grow_and_are_gathered(server):
    session = begin(server)
    first = everyone(session, 2, 2)
    assert [[s.text for s in row] for row in first] == [["10.0", "10.1"]] * 2
    assert [s.ending for s in first[0]] == ["step", "solution"]
    assert (first[0][1].tokens, first[0][1].log_prob) == (2, -2.5)
    session.gather(np.array([[0, 0], [1, 0]]))
    second = session.sample(1, np.array([[True, True], [False, True]]))
    prompts = sorted(body["prompt"] for _, _, body in server.requests[2:])
    assert prompts == ["Q: 1+1\nA: 10.0\n", "Q: 2+2\nA: 10.0\n"]  # two paths that say the same are one request
    assert {body["prompt"]: body["n"] for _, _, body in server.requests[2:]}[prompts[0]] == 2
    assert second[1][0] is None and second[1][1].text == "15.0" and session.forwards.tolist() == [2, 2]
    assert not any(session.warnings)
    path, headers, body = server.requests[0]
    assert path == "/v1/completions" and "Authorization" not in headers and "top_k" not in body
    assert {name: body[name] for name in ("model", "n", "max_tokens", "temperature", "top_p", "stop", "logprobs")} == {
        "model": "m", "n": 2, "max_tokens": 32, "temperature": 0.7, "top_p": 1.0, "stop": ["\n"], "logprobs": 0}


def test_seeds_follow_the_problem_not_its_place(server):
    seeds = []
    for problems, seed in ((("1+1", "2+2"), 0), (("2+2", "1+1"), 0), (("1+1",), 1)):
        before = len(server.requests)
        everyone(begin(server, problems, seed=seed), len(problems), 2)
        seeds.append({body["prompt"]: body["seed"] for _, _, body in server.requests[before:]})
    assert seeds[0] == seeds[1] and len(set(seeds[0].values())) == 2
    assert seeds[2]["Q: 1+1\nA: "] != seeds[0]["Q: 1+1\nA: "]


def test_a_step_is_begun_and_completed(server):
    """Beginnings that say the same go on in one request, without half a character; a separator may stand across the parts."""
    choice = lambda text, finish, tokens, stop="\n\n": {  # noqa: E731
        "text": text, "finish_reason": finish, "stop_reason": stop, "logprobs": {"token_logprobs": [-0.5] * tokens}}
    begun = [choice("so 1", "length", 8), choice("so 1", "length", 8), choice("done", "stop", 2), choice("hm\n", "length", 8),
             choice("x \ufffd", "length", 8), choice("no", "length", 8)]
    rest = {"so 1": [choice(" + 1", "stop", 3), choice("", "stop", 1)], "hm\n": [choice("\nmore", "length", 24)],
            "x ": [choice("é", "stop", 2, None)]}
    server.reply = lambda body: (200, {}, {
        "choices": begun if body["max_tokens"] == 8 else rest[body["prompt"].partition("A: ")[2]]})
    session = begin(server, ("1+1",), width=6, step_format=StepFormat("Q: ", "\nA: ", "\n\n"))
    [first] = session.sample(0, np.ones((1, 6), bool), part=Part(8))
    assert [(step.text, step.tokens, step.ending) for step in first] == [
        ("so 1", 8, "begun"), ("so 1", 8, "begun"), ("done", 2, "step"), ("hm\n", 8, "begun"), ("x \ufffd", 8, "begun"),
        ("no", 8, "begun")]
    [whole] = session.sample(0, np.array([[True, True, False, True, True, False]]), part=Part(8, rest=True))
    assert [step and (step.text, step.tokens, step.log_prob, step.ending) for step in whole] == [
        ("so 1 + 1", 11, -5.5, "step"), ("so 1", 9, -4.5, "step"), None, ("hm", 32, -16.0, "step"),
        ("x é", 10, -5.0, "solution"), None]
    bodies = [body for _, _, body in server.requests]
    assert [(body["max_tokens"], body["n"]) for body in bodies[:1]] == [(8, 6)]
    assert sorted((body["prompt"], body["max_tokens"], body["n"]) for body in bodies[1:]) == [
        ("Q: 1+1\nA: hm\n", 24, 1), ("Q: 1+1\nA: so 1", 24, 2), ("Q: 1+1\nA: x ", 24, 1)]
    assert len({body["seed"] for body in bodies}) == 4 and session.forwards.tolist() == [4] and not any(session.warnings)
    server.reply = server.complete
    session.sample(1, np.array([[True, False, True, True, False, False]]))
    assert sorted(body["prompt"] for _, _, body in server.requests[4:]) == [
        f"Q: 1+1\nA: {step}\n\n" for step in ("done", "hm", "so 1 + 1")]


def _reply(**choice):
    return 200, {}, {"choices": [{"text": "a", "finish_reason": "stop"} | choice], "usage": {"completion_tokens": 3}}


@pytest.mark.parametrize(("choice", "text", "ending"), [
    ({"stop_reason": "\n"}, "a", "step"), ({"stop_reason": None}, "a", "solution"), ({"stop_reason": 151643}, "a", "solution"),
    ({"matched_stop": "\n"}, "a", "step"), ({"matched_stop": 2}, "a", "solution"), ({}, "a", "step"),
    ({"text": " "}, " ", "solution"), ({"text": "a\nb", "finish_reason": "length"}, "a", "step"),
    ({"finish_reason": "length"}, "a", "cut"), ({"finish_reason": "abort"}, "a", "cut"),
    ({"text": "so \\boxed{1}", "stop_reason": "\n"}, "so \\boxed{1}", "solution"),
])
def test_what_has_ended(server, choice, text, ending):
    server.script.append(_reply(**choice))
    samples, requests, warnings = policy(server, end_text="\\boxed").ask("p", 1, 0)
    assert (samples[0].text, samples[0].ending, samples[0].tokens, samples[0].log_prob) == (text, ending, 3, None)
    assert requests == 1 and not warnings


GARBAGE = [(200, {}, b"<html>busy</html>"), (200, {}, {"choices": "none"}), (200, {}, {"error": "no"}), (200, {}, b"\xff["),
           (200, {}, {"choices": [{"text": 5, "finish_reason": "stop"}]}), (200, {}, [1]), (200, {}, b"[" * 100_000),
           (200, {}, b'{"choices": [{"text": "a", "finish_reason": "stop", "logprobs": {"token_logprobs": [NaN]}}]}')]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_asked_again_and_counted(server, garbage):
    server.script.append(garbage)
    pauses = []
    samples, requests, warnings = policy(server, pauses).ask("p", 2, 0)
    assert len(samples) == 2 and requests == 2 and len(pauses) == 1 and 0.25 <= pauses[0] <= 0.375
    assert dict(warnings) == {"endpoint: reply is not what a completions endpoint sends": 1}


def test_pauses_grow_and_the_server_may_ask_for_longer_ones(server):
    server.script.extend([(503, {}, {}), (429, {"Retry-After": "7"}, {}), (None, {}, b"")])
    pauses = []
    samples, requests, warnings = policy(server, pauses).ask("p", 1, 0)
    assert len(samples) == 1 and requests == 4
    assert 0.25 <= pauses[0] <= 0.375 and pauses[1] == 7.0 and 1.0 <= pauses[2] <= 1.5
    assert warnings["endpoint: HTTP 503"] == warnings["endpoint: HTTP 429"] == 1 and sum(warnings.values()) == 3


def test_fewer_samples_are_completed_or_given_up(server):
    server.script.append(lambda body: server.complete(body, 1))
    samples, requests, warnings = policy(server).ask("p", 3, 0)
    assert [body["n"] for _, _, body in server.requests] == [3, 2] and len(samples) == 3 and requests == 2
    assert server.requests[0][2]["seed"] != server.requests[1][2]["seed"]
    assert dict(warnings) == {"endpoint: fewer samples than asked for": 1}
    server.reply = lambda body: server.complete(body, 0)
    samples, requests, warnings = policy(server).ask("p", 3, 0)
    assert samples == [] and requests == 4 and warnings["endpoint: steps given up"] == 3
    server.reply = lambda body: server.complete(body, 9)  # more than asked for
    assert len(policy(server).ask("p", 3, 0)[0]) == 3


def test_a_problem_that_fails_leaves_the_others_unharmed(server):
    server.reply = lambda body: server.complete(body) if "1+1" in body["prompt"] else server.hang(body)
    session = begin(server, timeout=0.2, retries=1)
    start = time.monotonic()
    samples = everyone(session, 2, 2)
    assert time.monotonic() - start < 3
    assert all(samples[0]) and samples[1] == [None, None]
    assert not session.warnings[0] and dict(session.warnings[1]) == {"endpoint: timed out": 2, "endpoint: steps given up": 2}


def test_a_request_that_is_refused_is_not_repeated(server):
    server.script.append((400, {}, {"error": {"message": "too long:\n 9000 tokens"}}))
    samples, requests, warnings = policy(server).ask("p", 1, 0)
    assert samples == [] and requests == 1
    assert dict(warnings) == {"endpoint: HTTP 400: too long: 9000 tokens": 1, "endpoint: steps given up": 1}


@pytest.mark.parametrize(("status", "said"), [(401, "the endpoint refuses the key (HTTP 401: who?)"),
                                              (404, "no such endpoint or model (HTTP 404: who?)")])
def test_what_would_fail_for_all_ends_the_run(server, status, said):
    server.reply = (status, {}, {"message": "who?"})
    with pytest.raises(InputError) as error:
        everyone(begin(server), 2, 2)
    assert str(error.value) == f"field 'url' = '{server.url}': {said}; check url, model and key_variable"


def test_no_server(server):
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(InputError, match="cannot be reached .*Connection refused.*; start the server; the same"):
        everyone(begin(server, retries=1), 2, 2)


def test_keys_and_greedy_sampling(server, monkeypatch):
    with pytest.raises(InputError, match="field 'key_variable' = 'MY_KEY': this environment variable is not set"):
        policy(server, key_variable="MY_KEY")
    monkeypatch.setenv("MY_KEY", "secret")
    samples, _, _ = policy(server, key_variable="MY_KEY", sampling=SamplingConfig(0.0, top_k=5), log_probs=False).ask("p", 3, 0)
    _, headers, body = server.requests[0]
    assert headers["Authorization"] == "Bearer secret" and body["n"] == 1 and body["top_k"] == 5 and "logprobs" not in body
    assert len(samples) == 3 and len(set(samples)) == 1  # servers refuse n > 1 without randomness


@pytest.mark.parametrize(("fields", "message"), [
    ({"url": "localhost:8000"}, "field 'url' = 'localhost:8000': must begin with http:// or https://"),
    ({"model": ""}, "field 'model' = '': must not be empty"), ({"timeout": 0.0}, "must be a positive number of seconds"),
    ({"concurrency": 0}, "field 'concurrency' = 0"), ({"retries": -1}, "field 'retries' = -1"),
])
def test_bad_settings(fields, message):
    with pytest.raises(InputError, match=message):
        Endpoint(**({"url": "http://x", "model": "m"} | fields))
