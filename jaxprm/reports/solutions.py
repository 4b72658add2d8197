"""A page that shows solutions step by step, each step coloured by its score: ``jaxprm score --html``."""

from __future__ import annotations

from collections.abc import Sequence

from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution
from jaxprm.reports.details import ScoredSolution
from jaxprm.reports.pages import render_page


def scored_solution(item: LabeledSolution, scores: Sequence[float | None], *, aggregate: float | None = None,
                    title: str = "") -> ScoredSolution:
    """A labelled solution and its scores (one per step, None = not scored) as a report shows them; ``title`` defaults
    to its id.

    Raises:
      InputError: the number of scores differs from the number of steps.
    """
    solution, labels = item.solution, item.labels
    scores = tuple(None if score is None else float(score) for score in scores)
    return ScoredSolution(solution.problem.prompt, solution.steps, scores, labels.values if labels else None,
                          labels.first_error if labels else None, solution.answer, solution.problem.answer,
                          solution.correct, None if aggregate is None else float(aggregate), title or item.id)


def render_solutions(items: Sequence[LabeledSolution], scores: Sequence[Sequence[float | None]], *,
                     aggregates: Sequence[float | None] | None = None, title: str = "Step scores",
                     limit: int = 500) -> str:
    """One self-contained HTML page.

    Args:
      items: the solutions; labels, where there are any, are marked beside the scores.
      scores: one list per solution with one score per step (probability; None = not scored).
      aggregates: score of each whole solution.
      title: heading of the page.
      limit: at most so many solutions are shown, the first ones; the page says how many it leaves out.

    Returns:
      The HTML text; all texts are escaped.

    Raises:
      InputError: the numbers of solutions, steps and scores differ.
    """
    aggregates = [None] * len(items) if aggregates is None else aggregates
    if not len(items) == len(scores) == len(aggregates):
        raise InputError(f"has {len(scores)} lists (aggregates: {len(aggregates)}) for {len(items)} solutions",
                         field="scores")
    shown = [scored_solution(item, row, aggregate=aggregate)
             for item, row, aggregate in list(zip(items, scores, aggregates))[:limit]]
    # Real solutions have long lines: one column reads better unless all steps are short.
    single = any(len(step) > 120 for solution in shown for step in solution.steps)
    page = render_page("solutions.html.j2", title=title, solutions=shown, omitted=max(len(items) - limit, 0), single=single)
    return page.encode("utf-8", "replace").decode()  # lone surrogates of a broken text would make a file that none can read
