"""Baselines which a reward model has to beat: step position and length, and bags of words. They need scikit-learn.

A trained model that is no better than these has learnt the habits of the data set (errors stand at the end, wrong
steps are short), not to check steps. Both fit a logistic regression to single steps:

- `fit_position_length` never reads a word. By default it also sees what lies ahead (relative position, is this the
  last step, number of steps), which no left-to-right reward model does: many sets stop at the first error, and this is
  how far that gets.
- `fit_tfidf` reads the words of the step, without the problem and the other steps.

Both are fitted on `distinct_steps`: a prefix that many rows share counts once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxprm.errors import InputError
from jaxprm.evaluation.distinct import distinct_steps
from jaxprm.records import LabeledSolution, Solution

StepFeatures = Callable[[Sequence[tuple[Solution, int]]], object]


@dataclasses.dataclass(frozen=True, eq=False)
class StepBaseline:
    """A fitted baseline: ``baseline(items)`` gives float64[number of steps] for each, the probability that a step is
    right.

    Attributes:
      name: what it is, for tables.
      examples: number of distinct labelled steps it was fitted on.
      model: the scikit-learn classifier over the features.
      features: from (solution, step index) pairs to the rows that the classifier reads.
    """

    name: str
    examples: int
    model: object
    features: StepFeatures

    def __call__(self, items: Sequence[LabeledSolution]) -> list[np.ndarray]:
        places = [(item.solution, step) for item in items for step in range(len(item.solution.steps))]
        if not places:
            return []
        right = self.model.predict_proba(self.features(places))[:, list(self.model.classes_).index(True)]
        return np.split(right, np.cumsum([len(item.solution.steps) for item in items])[:-1])


def fit_position_length(items: Sequence[LabeledSolution], *, look_ahead: bool = True) -> StepBaseline:
    """Logistic regression on the position and length of a step.

    Features: step index (plain and log), first step, characters of the step (log), of the problem (log) and of the
      solution
    so far (log); with ``look_ahead`` also relative index, is the last step, and number of steps (log).

    Args:
      items: labelled solutions to fit.
      look_ahead: whether the features see how many steps follow.

    Raises:
      InputError: scikit-learn is not installed, or the steps are not of both classes.
    """
    pipeline, preprocessing, linear = _sklearn("pipeline", "preprocessing", "linear_model")

    def features(places):
        return np.array([_place_features(*place, look_ahead) for place in places], np.float64)

    places, labels = _both_classes(items)
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), linear.LogisticRegression(max_iter=1000))
    model.fit(features(places), labels)
    name = "position and length" if look_ahead else "position and length (causal)"
    return StepBaseline(name, len(places), model, features)


def fit_tfidf(items: Sequence[LabeledSolution], *, vocabulary: int = 50_000) -> StepBaseline:
    """TF-IDF of the words, pairs of words and signs of a step (at most ``vocabulary`` of them), and logistic
    regression.

    Raises:
      InputError: scikit-learn is not installed, or the steps are not of both classes.
    """
    text, linear = _sklearn("feature_extraction.text", "linear_model")
    places, labels = _both_classes(items)
    # Numbers, words and single signs: the sign matters in a step such as "6 - 2 = 4".
    vectorizer = text.TfidfVectorizer(token_pattern=r"\d+|[^\W\d_]+|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True,
                                      max_features=vocabulary, dtype=np.float32)
    matrix = vectorizer.fit_transform([solution.steps[step] for solution, step in places])
    model = linear.LogisticRegression(max_iter=1000)
    model.fit(matrix, labels)

    def features(places):
        return vectorizer.transform([solution.steps[step] for solution, step in places])

    return StepBaseline("TF-IDF", len(places), model, features)


def _place_features(solution: Solution, step: int, look_ahead: bool) -> list[float]:
    steps = solution.steps
    characters = [len(text) for text in steps[: step + 1]]
    row = [step, np.log1p(step), step == 0, np.log1p(characters[-1]), np.log1p(len(solution.problem.prompt)),
           np.log1p(sum(characters))]
    if look_ahead:
        row += [(step + 1) / len(steps), step + 1 == len(steps), np.log(len(steps))]
    return [float(value) for value in row]


def _both_classes(items: Sequence[LabeledSolution]):
    rows = distinct_steps(items)
    places = [(items[row].solution, step) for row, step in rows]
    labels = np.array([items[row].labels.values[step] >= 0.5 for row, step in rows], bool)
    if not len(labels) or labels.all() or not labels.any():
        raise InputError(f"{int(labels.sum())} of {len(labels)} judged steps are right: a baseline needs both classes",
                         field="labels", hint="fit on a set with right and wrong steps")
    return places, labels


def _sklearn(*modules: str):
    import importlib

    try:
        return [importlib.import_module(f"sklearn.{module}") for module in modules]
    except ImportError:
        raise InputError("the baselines need scikit-learn", hint="run: pip install 'jaxprm[test]'") from None
