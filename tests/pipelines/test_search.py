"""``jaxprm search``: rows, results and page; a run that was cut off goes on; bad input is one line."""

import http.server
import json
import threading

import pytest

from jaxprm.hub import save_model
from jaxprm.pipelines import search as pipeline
from jaxprm.records import read_solutions
from jaxprm.search.searched import Costs, Searched, read_searched
from jaxprm.search.searcher import Searcher
from jaxprm.steps import StepEncoder, StepFormat
from jaxprm.testing import character_tokenizer, tiny_config, tiny_language_model, tiny_reward_model, word_tokenizer
from jaxprm.testing.published import published_model

PROBLEMS = [{"id": f"p{i}", "problem": f"w1 w{i}", "answer": "w3", "meta": {"level": i}} for i in range(5)]
CONFIG = """
from __gin__ import dynamic_registration
from jaxprm.pipelines import search_config as search
from jaxprm.search import searcher
from jaxprm.search.strategies import beam

search.Search.input = "problems.jsonl"
search.Search.resamples = 50
search.Search.answer_marker = "w2"
search.Search.searches = (@a/search.NamedSearch(), @b/search.NamedSearch())
a/search.NamedSearch.name = "beam"
b/search.NamedSearch.name = "other"
search.NamedSearch.policy = @search.LocalModel()
search.NamedSearch.reward_model = @search.Scorer()
search.NamedSearch.settings = @searcher.SearchSettings()
b/search.NamedSearch.settings = @b/searcher.SearchSettings()
searcher.SearchSettings.strategy = @beam.Beam()
searcher.SearchSettings.max_steps = 3
searcher.SearchSettings.batch_problems = 2
b/searcher.SearchSettings.seed = 1
beam.Beam.beam_width = 2
beam.Beam.expansions = 2
search.LocalModel.path = "policy"
search.LocalModel.max_step_tokens = 4
search.Scorer.path = "prm"
"""


def encoder_of(tokenizer):
    return StepEncoder(StepFormat(), tokenizer)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A policy, a reward model with the same tokenizer, and one with another."""
    folder = tmp_path_factory.mktemp("models")
    words, letters = word_tokenizer([f"w{i}" for i in range(8)]), character_tokenizer("w0123456789 ")
    config = tiny_config(vocab_size=words.vocab_size, layers=1)
    save_model(folder / "policy", tiny_language_model(0, config), encoder_of(words), {})
    save_model(folder / "prm", tiny_reward_model(1, config=config), encoder_of(words), {})
    save_model(folder / "letters", tiny_reward_model(2, config=tiny_config(vocab_size=letters.vocab_size, layers=1)),
               encoder_of(letters), {})
    save_model(folder / "short", tiny_reward_model(2, config=tiny_config(vocab_size=letters.vocab_size, layers=1, context=12)),
               encoder_of(letters), {})
    published_model(folder / "published")
    published_model(folder / "chat", chat_template="{% for message in messages %}{{ message.content }} {% endfor %}")
    return folder


@pytest.fixture
def place(models, tmp_path, monkeypatch, toy):
    """A working directory with models, problems and config."""
    for name in ("policy", "prm", "letters", "short", "published", "chat"):
        (tmp_path / name).symlink_to(models / name)
    toy.write(tmp_path / "problems.jsonl", PROBLEMS)
    (tmp_path / "mine.gin").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def found_in(path):
    """(search, problem) -> what was found, without the time it took."""
    found = [read_searched(row) for row in rows_of(path)]
    return {(name, one.problem.id): (one.nodes, one.solutions, one.chosen, one.stopped_by) for name, one in found}


@pytest.fixture
def searched(monkeypatch):
    """The ids that were searched, call by call."""
    calls, original = [], Searcher.run

    def noted(self, problems, on_batch):
        calls.append([problem.id for problem in problems])
        return original(self, problems, on_batch)

    monkeypatch.setattr(Searcher, "run", noted)
    return calls


def test_a_run_and_its_resumption(place, toy, capfd, searched):
    assert toy.call("search", "mine.gin", "--output", "out.jsonl", "--html", "out.html") == 0
    said = capfd.readouterr()
    assert "accuracy" in said.out and "minus the first" in said.out and "report: " in said.out and "compiled" in said.err
    run = place / "runs/mine"
    rows = rows_of(run / "searched.jsonl")
    assert [row["id"] for row in rows] == [f"{name}/p{i}" for name in ("beam", "other") for i in range(5)]
    assert rows_of(place / "out.jsonl") == [row for row in rows if row["steps"]]
    assert (place / "out.html").read_bytes() == (run / "report.html").read_bytes()
    results = json.loads((run / "results.json").read_text())
    assert results["searches"]["beam"]["accuracy"].keys() == {"mean", "low", "high"} and results["input"]["problems"] == 5
    assert results["searches"]["beam"]["accuracy_minus_first"] is None
    assert results["searches"]["other"]["costs"]["policy_tokens"] > 0
    assert not (run / "searched.jsonl.part").exists() and searched == [[f"p{i}" for i in range(5)]] * 2

    # What it writes is read by all that reads solutions.
    assert [item.id for item in read_solutions(place / "out.jsonl")] == [row["id"] for row in rows_of(place / "out.jsonl")]
    assert toy.call("data", "view", "out.jsonl", "--scores", "out.jsonl", "--output", "view.html") == 0
    assert rows_of(place / "out.jsonl")[0]["steps"][0] in (place / "view.html").read_text()

    # The same again searches nothing.
    before = found_in(run / "searched.jsonl")
    assert toy.call("search", "mine.gin") == 0 and len(searched) == 2 and found_in(run / "searched.jsonl") == before

    # A run that was killed has a part, whose last line may be cut off.
    lines = (run / "searched.jsonl").read_text().splitlines(keepends=True)
    (run / "searched.jsonl").unlink()
    (run / "searched.jsonl.part").write_text("".join(lines[:7]) + lines[7][:40])
    capfd.readouterr()
    assert toy.call("search", "mine.gin") == 0 and searched[2:] == [["p2", "p3", "p4"]]
    assert found_in(run / "searched.jsonl") == before and "2 of 5 problems" in capfd.readouterr().err

    # Other problems are another run.
    toy.write(place / "problems.jsonl", PROBLEMS[:4])
    assert toy.call("search", "mine.gin") == 2
    assert "field 'input': has changed since this run began; choose another directory with --run" in capfd.readouterr().err


def test_another_tokenizer_goes_through_text(place, toy, capfd):
    assert toy.call("search", "mine.gin", "--gin.Scorer.path='letters'", "--gin.Search.limit=2") == 0
    assert "beam (through text)" in capfd.readouterr().err
    _, found = read_searched(rows_of(place / "runs/mine/searched.jsonl")[0])
    read = [len(node.text) + 1 for node in found.nodes if node.score is not None]  # a letter is a token there
    assert read and found.costs.reward_tokens == len("w1 w0") + 2 + sum(read)


def test_several_devices(place, toy, capfd):
    """Eight problems at a time on eight devices find what two at a time find on one; other batches are refused."""
    assert toy.call("search", "mine.gin") == 0
    assert toy.call("search", "mine.gin", "--run", "runs/mesh", "--mesh", "8,1,1", "--gin.SearchSettings.batch_problems=8") == 0
    one, eight = (found_in(place / f"runs/{name}/searched.jsonl") for name in ("mine", "mesh"))
    for key, (nodes, _, *rest) in one.items():
        assert [(node.parent, node.text) for node in nodes] == [(node.parent, node.text) for node in eight[key][0]]
        assert [*rest] == [*eight[key][2:]]
    assert toy.call("search", "mine.gin", "--run", "runs/other", "--mesh", "8,1,1") == 2
    assert "field 'batch_problems' = 2: the mesh splits problems into 8 equal parts; choose a" in capfd.readouterr().err


def test_published_policies(place, toy, capfd):
    """A Hugging Face directory is asked through its chat template, or a format; its steps are read by another tokenizer."""
    lines = [line for line in CONFIG.replace("@b/search.NamedSearch())", ")").splitlines() if not line.startswith("b/")]
    lines.insert(2, "from jaxprm.steps import format as steps")
    (place / "mine.gin").write_text("\n".join(lines) + "\n")
    options = ["--gin.Scorer.path='letters'", "--gin.Search.limit=2"]
    assert toy.call("search", "mine.gin", "--gin.LocalModel.path='chat'", *options, "--run", "chat_run") == 0
    asked = "--gin.LocalModel.step_format=@steps.StepFormat()"
    assert toy.call("search", "mine.gin", "--gin.LocalModel.path='published'", asked, *options, "--run", "format_run") == 0
    for run in ("chat_run", "format_run"):
        found = [read_searched(row)[1] for row in rows_of(place / run / "searched.jsonl")]
        assert len(found) == 2 and any(node.score is not None for one in found for node in one.nodes)
    capfd.readouterr()
    assert toy.call("search", "mine.gin", "--gin.LocalModel.path='published'", *options) == 2
    assert "published: field 'step_format': must be given: this model has no chat template" in capfd.readouterr().err


def test_a_reward_model_with_a_short_context(place, toy):
    """What it cannot read is counted, and the best that it could read is given."""
    assert toy.call("search", "mine.gin", "--gin.Scorer.path='short'", "--gin.Search.limit=2") == 0
    found = [read_searched(row)[1] for row in rows_of(place / "runs/mine/searched.jsonl")]
    assert all(one.warnings["step unreadable: the reward model's context is full"] for one in found)
    assert all(one.chosen is None or one.nodes[one.chosen].value is not None for one in found)


def test_sigterm_keeps_what_is_done(place, toy, capfd, monkeypatch, searched):
    monkeypatch.setattr(pipeline.StopSignal, "requested", lambda self, count: count >= 2)
    assert toy.call("search", "mine.gin", "--gin.Scorer.path='letters'") == 75
    assert "stopped after 2 of 5 problems of 'beam'; the same command goes on" in capfd.readouterr().err
    part = place / "runs/mine/searched.jsonl.part"
    assert len(rows_of(part)) == 2 and not (place / "runs/mine/searched.jsonl").exists()


def test_a_model_that_is_missing_does_not_hold_the_place(place, toy, capfd, monkeypatch):
    """Not even that of the second search, before the first has begun: the mended config runs where the other one failed."""
    monkeypatch.setattr(Searcher, "run", lambda self, problems, on_batch: on_batch(
        [Searched(problem, (), (), None, Costs(), "context") for problem in problems]))
    with open(place / "mine.gin", "a") as file:
        file.write("b/search.NamedSearch.policy = @b/search.LocalModel()\nb/search.LocalModel.path = 'policy'\n")
    assert toy.call("search", "mine.gin", "--gin.b/LocalModel.path='absent'", "--run", "there") == 2
    assert "absent: no such directory" in capfd.readouterr().err and not (place / "there").exists()
    assert toy.call("search", "mine.gin", "--run", "there") == 0 and len(rows_of(place / "there/searched.jsonl")) == 10


class Handler(http.server.BaseHTTPRequestHandler):
    """Refuses p3, gives one sample only for p2, nonsense for p1, and nothing within the time for p4."""

    broken, slow = True, threading.Event()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        bad = next((i for i in range(1, 5) if self.broken and body["prompt"].startswith(f"w1 w{i}")), 0)
        ends = body["prompt"].count("\n") > 1
        choice = {"text": f"w{body['seed'] % 8}", "finish_reason": "stop", "stop_reason": None if ends else "\n"}
        choices = [choice] * (1 if bad == 2 else body["n"])
        content = json.dumps({"choices": choices, "usage": {"completion_tokens": 2 * len(choices)}}).encode()
        if bad == 4:
            self.slow.wait(20)
        try:
            self.send_response(400 if bad == 3 else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(b"<" * len(content) if bad == 1 else content)
        except OSError:
            pass  # the client has given up waiting

    def log_message(self, *_):
        pass


def test_an_endpoint_that_fails_for_some_problems(place, toy, capfd, monkeypatch, searched):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(Handler, "broken", True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    lines = [line for line in CONFIG.replace("@search.LocalModel()", "@search.ServedModel()").replace(
        ", @b/search.NamedSearch())", ",)").splitlines() if not line.startswith(("b/", "search.LocalModel"))]
    lines.insert(2, "from jaxprm.generation import remote")
    lines += ["search.ServedModel.endpoint = @remote.Endpoint()", "remote.Endpoint.model = 'm'", "remote.Endpoint.retries = 0",
              "remote.Endpoint.timeout = 3.0", f"remote.Endpoint.url = 'http://127.0.0.1:{server.server_address[1]}/v1'"]
    (place / "mine.gin").write_text("\n".join(lines) + "\n")
    try:
        assert toy.call("search", "mine.gin") == 0
        assert "beam: the endpoint gave nothing for 3 of 5 problems; the same command tries again" in capfd.readouterr().err
        rows = {row["problem_id"]: row for row in rows_of(place / "runs/mine/searched.jsonl")}
        for name, said in (("p1", "reply is not what a completions endpoint sends"), ("p3", "HTTP 400"), ("p4", "timed out")):
            assert rows[name]["steps"] == [] and rows[name]["search"]["warnings"] == {f"endpoint: {said}": 1,
                                                                                      "endpoint: steps given up": 4}
        assert rows["p2"]["search"]["warnings"]["endpoint: fewer samples than asked for"] >= 1
        assert all(rows[name]["finished"] and len(rows[name]["steps"]) == 2 for name in ("p0", "p2"))
        assert not any(warning.startswith("endpoint") for warning in rows["p0"]["search"]["warnings"])
        Handler.broken = False
        assert toy.call("search", "mine.gin") == 0 and searched[1:] == [["p1", "p3", "p4"]]
        again = {row["problem_id"]: row for row in rows_of(place / "runs/mine/searched.jsonl")}
        assert all(row["finished"] for row in again.values()) and again["p0"] == rows["p0"]
    finally:
        Handler.slow.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("lines", "message"), [
    (None, "no such file"), ([], "field 'input': has no problems"), (["{"], "problems.jsonl:1: is not valid JSON"),
    ([[1]], "problems.jsonl:1: a row must be a JSON object, not list"),
    ([{"id": "a"}], "problems.jsonl:1: field 'problem': is missing; each row needs 'problem' (text)"),
    ([PROBLEMS[0], {"problem": " "}], "problems.jsonl:2: field 'problem' = ' ': must be a text"),
    ([{"problem": "w1", "answer": [3]}], "problems.jsonl:1: field 'answer' = [3]: must be a text or a number"),
    ([{"id": 1, "problem": "w1"}, {"id": 1, "problem": "w2"}],
     "problems.jsonl:2: field 'id' = '1': stands for two different problems; give each problem an id of its own"),
])
def test_bad_problems(place, toy, capfd, lines, message):
    (place / "problems.jsonl").unlink()
    if lines is not None:
        text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (place / "problems.jsonl").write_text("".join(line + "\n" for line in text))
    assert toy.call("search", "mine.gin") == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (place / "runs/mine").exists()


@pytest.mark.parametrize(("option", "message"), [
    ("--gin.LocalModel.path='absent'", "absent: no such directory"),
    ("--gin.LocalModel.path='prm'", "field 'kind' = 'reward_model': is not a language_model; give one of language_model,"),
    ("--gin.Scorer.path='policy'", "field 'kind' = 'language_model': is not a reward_model; give one of reward_model,"),
    ("--gin.SearchSettings.strategy=@beam.Beem()", "has no 'Beem'; did you mean 'Beam'?"),
    ("--gin.LocalModel.system='think'", "policy: says itself how it is asked; leave step_format and system out"),
    ("--gin.Search.task=@arithmetic.ArithmeticTask()", "arithmetic"),
    ("--gin.a/NamedSearch.name='x/y'", "must be a text without '/'"), ("--gin.Search.limit=-1", "must be at least 0"),
    ("--gin.SearchSettings.vote='most'", "must be one of 'majority', 'best'"),
])
def test_bad_settings(place, toy, capfd, option, message):
    assert toy.call("search", "mine.gin", option) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error, error
    assert not (place / "runs/mine").exists()
