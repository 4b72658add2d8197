"""`TextReader`: step by step, after any gathers, the scores and token counts of reading whole solutions."""

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.models.heads import HeadConfig
from jaxprm.records import Problem, Solution
from jaxprm.scoring.implicit import ImplicitModel
from jaxprm.scoring.scorer import StepScorer
from jaxprm.search.text_reader import TextReader
from jaxprm.steps import StepEncoder, StepFormat
from jaxprm.testing import tiny_config, tiny_language_model, tiny_reward_model, word_tokenizer

WORDS = word_tokenizer([f"w{i}" for i in range(14)] + ["!"])
CONFIG = tiny_config(vocab_size=WORDS.vocab_size, context=200)
PROBLEMS = [Problem("a", "w1 w2"), Problem("b", "w3 w4 w5", answer="w9")]
MODEL = tiny_reward_model(0, config=CONFIG)
IMPLICIT = ImplicitModel(tiny_language_model(1, CONFIG), tiny_language_model(2, CONFIG), 0.5)


class ClosedTurn:
    """A family whose turn is closed behind the last step, and whose steps are read at "!": what stands behind it changes."""

    aggregation = "min"

    def __init__(self, start=False):
        self.start = start

    def encode(self, problem, steps):
        ids = WORDS.encode(problem) + [3]
        ends = []
        for step in steps:
            ids += WORDS.encode(step + " !")
            ends.append(len(ids) - 1)
        return ids + WORDS.encode("w13 w13"), ends

    def encode_rows(self, problem, steps, reference):
        assert reference is None  # a search must not see it
        ids, ends = self.encode(problem, steps)
        if not self.start:
            return [(ids, ends)]
        # Position t stands for the prediction of token t + 1: that of the mark, not of what follows it.
        return [(ids, [end - 1 for end in ends], len(WORDS.encode(problem)))]


class Changing(ClosedTurn):
    """A family in which a second step changes a token of the first one."""

    def encode(self, problem, steps):
        ids, ends = super().encode(problem, steps)
        return [6 if len(steps) > 1 and place == ends[0] - 1 else token for place, token in enumerate(ids)], ends


def own(readout="at"):
    return StepEncoder(StepFormat(readout=readout), WORDS)


def walk(model, encoder, levels=6, seed=0, problems=PROBLEMS, width=3):
    """A random search; returns the reader, and (problem, steps, scores) of all paths at the end."""
    rng = np.random.default_rng(seed)
    reader = TextReader(model, encoder, problems, width)
    steps = [[()] * width for _ in problems]
    scores = [[()] * width for _ in problems]
    for level in range(levels):
        new = [[" ".join(f"w{k}" for k in rng.integers(0, 12, rng.integers(1, 6))) if level == 0 or rng.random() < 0.8 else None
                for _ in range(width)] for _ in problems]
        found = reader.read(new)
        assert np.isnan(found).tolist() == [[text is None for text in row] for row in new]
        parents = rng.integers(0, width, (len(problems), width))
        for b in range(len(problems)):
            grown = [((*steps[b][c], new[b][c]), (*scores[b][c], found[b, c])) if new[b][c] else (steps[b][c], scores[b][c])
                     for c in range(width)]
            steps[b], scores[b] = ([grown[parent][k] for parent in parents[b]] for k in (0, 1))
        reader.gather(parents)
    return reader, [(problem, steps[b][c], scores[b][c]) for b, problem in enumerate(problems) for c in range(width)]


@pytest.mark.parametrize(("model", "encoder"), [
    (MODEL, own()), (MODEL, own("before")), (MODEL, ClosedTurn()), (MODEL, Changing()), (IMPLICIT, own()),
    (IMPLICIT, own("before")), (IMPLICIT, ClosedTurn(start=True))],
    ids=["at", "before", "family", "changing", "implicit", "implicit before", "implicit family"])
def test_incremental_scores_are_full_scores(model, encoder):
    reader, paths = walk(model, encoder)
    assert max(len(steps) for _, steps, _ in paths) > 4
    whole = StepScorer(model, encoder).score([Solution(Problem("", problem.prompt), steps) for problem, steps, _ in paths])
    for (*_, scores), expected in zip(paths, whole, strict=True):
        if isinstance(encoder, Changing):  # the first step's score was given before its tokens changed
            scores, expected = scores[1:], expected[1:]
        # Implicit scores are sums that pass through zero: they are rounded as their path's largest is.
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(initial=0))
    assert not any(reader.warnings)


@pytest.mark.parametrize("model", [MODEL, IMPLICIT], ids=["reward", "implicit"])
def test_every_token_is_read_once(model):
    reader = TextReader(model, own(), PROBLEMS, 2)
    prompts = np.array([1 + 2 + 1, 1 + 3 + 1])  # begin, words, newline
    assert (reader.tokens == 0).all()
    reader.read([["w1 w1", "w2"], ["w3", None]])
    assert reader.tokens.tolist() == (prompts + [3 + 2, 2]).tolist() and reader.forwards.tolist() == [2, 2]
    reader.gather(np.array([[1, 1], [0, 0]]))
    reader.read([["w1 w1 w1", None], [None, None]])
    assert reader.tokens.tolist() == (prompts + [3 + 2 + 4, 2]).tolist() and reader.forwards.tolist() == [3, 2]


class Joining(ClosedTurn):
    """A family whose tokenizer writes "w1 w2" as one token."""

    def encode(self, problem, steps):
        return super().encode(problem, [step.replace("w1 w2", "w12") for step in steps])


@pytest.mark.parametrize(("model", "encoder"), [
    (MODEL, own()), (MODEL, own("before")), (MODEL, ClosedTurn()), (MODEL, Joining()), (IMPLICIT, own()),
    (IMPLICIT, own("before")), (IMPLICIT, ClosedTurn(start=True))],
    ids=["at", "before", "family", "joining", "implicit", "implicit before", "implicit family"])
def test_beginnings_are_read_and_completed(model, encoder):
    """A step's beginning is worth what its last token says, or the step that a family makes of it; what is read then is the
    rest, with a token that has changed and what closes the step."""
    score = lambda encoder, steps: StepScorer(model, encoder).score([Solution(PROBLEMS[0], steps)])[0][-1]  # noqa: E731
    same = lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)  # noqa: E731
    of_beginnings = own("before") if isinstance(encoder, StepEncoder) else encoder
    reader, path, begun = TextReader(model, encoder, PROBLEMS[:1], 2), (), np.array([[True, True]])
    for text, whole, rest in (("w4 w1", "w4 w1 w2", 2), ("w5", "w5", 1), ("w6 w3", "w6 w3 w7 w8", 3)):
        found = reader.read([[text, text]], begun)[0]
        same(found, [score(of_beginnings, (*path, text))] * 2)
        before, path = reader.tokens[0], (*path, whole)
        same(reader.read([[None, whole]])[0, 1], score(encoder, path))
        assert reader.tokens[0] == before + rest or not isinstance(encoder, StepEncoder)
        assert before + rest <= reader.tokens[0] <= before + max(rest, 2)
        reader.gather(np.array([[1, 1]]))
    assert not any(reader.warnings)


@pytest.mark.parametrize(("model", "encoder"), [
    (MODEL, own()), (MODEL, own("before")), (MODEL, ClosedTurn()), (IMPLICIT, own())],
    ids=["at", "before", "family", "implicit"])
def test_what_is_taken_back_leaves_no_trace(model, encoder):
    """Steps are read behind some paths and taken back: the next scores, even of an empty step, are as if they had not been."""
    def scores(ahead):
        reader = TextReader(model, encoder, PROBLEMS, 2)
        reader.read([["w1 w2", "w3"], ["w4 w4", "w5"]])
        mark = reader.mark()
        for texts in ahead:
            reader.read(texts)
        reader.back(mark)
        empty = "" if isinstance(encoder, StepEncoder) else "w8"
        return reader.read([["w6", empty], [empty, "w1"]])

    found = scores([[["w7 w7 w7", "w2"], [None, "w9"]], [["w2", None], [None, "w1 w1"]]])
    np.testing.assert_allclose(found, scores([]), atol=2e-6)


def test_what_a_template_closes_is_not_read():
    reader = TextReader(MODEL, ClosedTurn(), PROBLEMS[:1], 2)
    reader.read([["w1 w1", "w2"]])
    assert reader.tokens.tolist() == [3 + 3 + 2]
    reader.read([["w4", "w5"]])
    assert reader.tokens.tolist() == [3 + 3 + 2 + 2 + 2]


def test_what_cannot_be_read_is_counted_and_harms_no_other_path():
    reader = TextReader(tiny_reward_model(0, config=tiny_config(vocab_size=WORDS.vocab_size, context=16)), own(), PROBLEMS, 2)
    found = reader.read([["w1\nw2", "w1"], ["", "w1 " * 40]])
    assert np.isnan(found).tolist() == [[True, False], [False, True]]  # an empty step is read at its separator
    assert dict(reader.warnings[0]) == {"step unreadable: contains the separator '\\n'": 1}
    assert reader.warnings[1] == {"step unreadable: the reward model's context is full": 1}
    again = TextReader(MODEL, own(), PROBLEMS[:1], 1).read([["w1"]])
    np.testing.assert_allclose(again[0, 0], StepScorer(MODEL, own()).score([Solution(PROBLEMS[0], ("w1",))])[0][0], atol=2e-6)


def test_a_head_of_two_directions_is_refused():
    both = tiny_reward_model(0, HeadConfig("scalar", direction="mean"), CONFIG)
    with pytest.raises(InputError, match="field 'direction' = 'mean': reads whole solutions in both directions"):
        TextReader(both, own(), PROBLEMS, 1)


def test_long_paths_find_room():
    model = tiny_reward_model(0, config=tiny_config(vocab_size=WORDS.vocab_size, context=400))
    reader = TextReader(model, own(), PROBLEMS[:1], 1)
    steps = tuple("w1 w2 w3 w4 w5 w6 w7" for _ in range(40))
    found = [reader.read([[step]])[0, 0] for step in steps]
    whole = StepScorer(model, own()).score([Solution(PROBLEMS[0], steps)])[0]
    np.testing.assert_allclose(found, whole, atol=2e-6)
