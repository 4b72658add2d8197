"""`Searcher`: problems in, searched problems out; compiled where policy and reward model share token ids, else through text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxprm.errors import InputError
from jaxprm.generation.local_text import LocalTextPolicy, problem_keys
from jaxprm.generation.policy import pad_prompts
from jaxprm.generation.text import TextPolicy
from jaxprm.models.reward_model import PolicyRewardModel, RewardModel
from jaxprm.records import Problem
from jaxprm.scoring.aggregation import AGGREGATIONS, Aggregation
from jaxprm.scoring.implicit import ImplicitModel
from jaxprm.scoring.scorer import Encoder, bucket
from jaxprm.scoring.votes import NO_ANSWER, VOTES, Vote, select_ids
from jaxprm.search.budget import Budget
from jaxprm.search.engine import search
from jaxprm.search.nodes import NodeResult, NodeStrategy
from jaxprm.search.result import SearchCosts, SearchResult, solutions
from jaxprm.search.searched import Answered, Costs, Node, Searched, tree_warnings
from jaxprm.search.strategies import Strategy
from jaxprm.search.text_reader import TextReader
from jaxprm.search.text_search import search_texts
from jaxprm.steps.format import StepEncoder
from jaxprm.tasks.grading import GradingKind, answer_classes

Judge = Callable[[Problem, tuple[str, ...]], tuple[str | None, bool | None]]
"""(problem, steps of a solution that has ended) -> its final answer, and whether it is right (``None`` = cannot be told)."""


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How problems are searched.

    Attributes:
      strategy: which paths go on; one that leaves nodes (a tree search, say) needs a compiled search.
      max_steps: most steps of a path.
      aggregation: path value from step scores; ``None`` = the reward model's own.
      vote: how the answer is chosen among the paths that have ended: "best" as the strategy ranks them, else one of the votes
        of `jaxprm.scoring.votes`, with path values as scores.
      budget: limits of each problem beside ``max_steps``; wall time is that of a batch.
      batch_problems: problems that are searched at a time.
      seed: everything random follows from it and from a problem's id and text.
    """

    strategy: Strategy | NodeStrategy
    max_steps: int = 16
    aggregation: Aggregation | None = None
    vote: Vote = "best"
    budget: Budget = Budget()
    batch_problems: int = 32
    seed: int = 0

    def __post_init__(self):
        for field in ("max_steps", "batch_problems"):
            if getattr(self, field) < 1:
                raise InputError("must be at least 1", field=field, value=getattr(self, field))
        for field, known in (("aggregation", (*AGGREGATIONS, None)), ("vote", VOTES)):
            if getattr(self, field) not in known:
                raise InputError(f"must be one of {', '.join(map(str, known))}", field=field, value=getattr(self, field))


class Searcher:
    """A policy and a reward model, ready to search.

    Args:
      policy: a `LocalTextPolicy`, or any other.
      model, encoder: the reward model and its text -> tokens.
      settings: see `SearchSettings`.
      judge: reads answers; votes need it.
      grading: which answers vote together.

    Attributes:
      aggregation: path value from step scores.
      compiled: whether levels run as one compiled program. Both ways give the same results.

    Raises (at construction):
      InputError: a vote without a judge, or a reward model that cannot read beginnings of solutions.
    """

    def __init__(self, policy: TextPolicy, model: RewardModel | ImplicitModel, encoder: Encoder, settings: SearchSettings, *,
                 judge: Judge | None = None, grading: GradingKind = "exact"):
        if settings.vote != "best" and judge is None:
            raise InputError("needs answers to vote on", field="vote", value=settings.vote, hint="give a judge that reads them")
        self.policy, self.model, self.encoder, self.settings = policy, model, encoder, settings
        self.judge, self.grading = judge, grading
        self.aggregation = settings.aggregation or getattr(encoder, "aggregation", "min")
        local = isinstance(policy, LocalTextPolicy)
        self.compiled = (local and isinstance(model, RewardModel) and isinstance(encoder, StepEncoder)
                         and isinstance(policy.encoder, StepEncoder) and share_ids(policy.encoder, encoder))
        if not self.compiled:
            if isinstance(settings.strategy, NodeStrategy):
                raise InputError("goes back to earlier steps, which only a compiled search can", field="strategy",
                                 value=settings.strategy.name, hint="use a policy on this machine that shares the reward "
                                 "model's tokenizer and step format")
            TextReader(model, encoder, [], settings.strategy.rows)  # refuses what cannot be read
            if settings.strategy.partial_tokens:
                raise InputError("works inside a step, which only a compiled search can", field="strategy",
                                 value=settings.strategy.name, hint="use a policy on this machine that shares the reward "
                                 "model's tokenizer and step format")
            if local and policy.max_steps < settings.max_steps + settings.strategy.lookahead:
                raise InputError(f"must be at least {settings.max_steps + settings.strategy.lookahead}, the steps of a path",
                                 field="max_steps", value=policy.max_steps, hint="give the policy room for them")

    def run(self, problems: Sequence[Problem],
            on_batch: Callable[[list[Searched]], None] = lambda found: None) -> list[Searched]:
        """Searches all problems, in batches of similar length; ``on_batch`` gets each batch when it is done.

        Returns:
          What was found for each problem, in the order given. It does not depend on the other problems.
        """
        found: dict[int, Searched] = {}
        order = sorted(range(len(problems)), key=lambda i: len(problems[i].prompt))
        for start in range(0, len(order), self.settings.batch_problems):
            members = order[start : start + self.settings.batch_problems]
            batch = [problems[i] for i in members]
            results = [self._judged(one) for one in (self._compiled(batch) if self.compiled else self._through_text(batch))]
            found |= dict(zip(members, results))
            on_batch(results)
        return [found[i] for i in range(len(problems))]

    def _through_text(self, problems: Sequence[Problem]) -> list[Searched]:
        settings = self.settings
        reader = TextReader(self.model, self.encoder, problems, settings.strategy.rows)
        return search_texts(self.policy, reader, settings.strategy, max_steps=settings.max_steps, seed=settings.seed,
                            aggregation=self.aggregation, budget=settings.budget)

    def _compiled(self, problems: Sequence[Problem]) -> list[Searched]:
        settings, policy, encoder = self.settings, self.policy, self.encoder
        prompts = [encoder.encode_prompt(problem.prompt) for problem in problems]
        context = min(policy.model.config.context, self.model.config.context)
        fits = [len(prompt) + policy.max_step_tokens <= context for prompt in prompts]
        # A batch that is not full is filled up: one shape, so one program for all of them.
        members = [i for i, fit in enumerate(fits) if fit]
        results = [_without_room(problem) for problem in problems]
        if not members:
            return results
        rows = [members[min(i, len(members) - 1)] for i in range(settings.batch_problems)]
        size = bucket(max(len(prompts[i]) for i in members), 16)
        tokens, lengths = pad_prompts([prompts[i] for i in rows], multiple=size)
        keys = problem_keys([problems[i] for i in rows], settings.seed)
        if isinstance(settings.strategy, NodeStrategy):
            found = settings.strategy.search(
                policy.model, self.model, keys, tokens, lengths, max_steps=settings.max_steps,
                max_step_tokens=policy.max_step_tokens, sampling=policy.sampling, aggregation=self.aggregation,
                separator_id=encoder.separator_id, end_id=encoder.end_id, read_back=encoder.read_back, budget=settings.budget)
            for row, i in enumerate(members):
                results[i] = from_nodes(found, row, problems[i], encoder, len(members))
            return results
        own = isinstance(self.model, PolicyRewardModel) and policy.model.backbone is self.model.backbone
        result = search(self.model if own and not encoder.read_back else policy.model, self.model, keys, tokens, lengths,
                        settings.strategy, max_steps=settings.max_steps, max_step_tokens=policy.max_step_tokens,
                        sampling=policy.sampling, aggregation=self.aggregation, separator_id=encoder.separator_id,
                        end_id=encoder.end_id, read_back=encoder.read_back, budget=settings.budget)
        for row, i in enumerate(members):
            results[i] = from_result(result, row, problems[i], encoder, len(members))
        return results

    def _judged(self, found: Searched) -> Searched:
        if self.judge is None:
            return found
        judged = [self.judge(found.problem, found.steps(one.node)) for one in found.solutions]
        answers = tuple(dataclasses.replace(one, answer=answer, correct=correct)
                        for one, (answer, correct) in zip(found.solutions, judged))
        return voted(dataclasses.replace(found, solutions=answers), self.settings.vote, self.grading)


def share_ids(first: StepEncoder, second: StepEncoder) -> bool:
    """Whether a problem and its steps have the same ids in both, so that tokens need not become text in between."""
    same = ("prompt_prefix", "prompt_suffix", "separator", "begin", "begin_token", "end_token")
    return (first.tokenizer.fingerprint == second.tokenizer.fingerprint and first.separator_id is not None
            and all(getattr(first.format, name) == getattr(second.format, name) for name in same))


def voted(found: Searched, how: Vote, grading: GradingKind = "exact") -> Searched:
    """The same with the solution chosen by a vote; solutions without an answer do not vote, and if none has one, nothing
    changes."""
    if how == "best" or not found.solutions:
        return found
    classes = answer_classes([one.answer for one in found.solutions], grading)
    ids = [NO_ANSWER if number is None else number for number in classes]
    try:
        place = int(select_ids(np.array([ids]), np.array([[one.value for one in found.solutions]]), how)[0])
    except ValueError as error:  # values that are no weights, of a head that gives no probabilities
        raise InputError(str(error), field="vote", value=how, hint="choose another vote or reward model") from None
    return found if place == NO_ANSWER else dataclasses.replace(found, chosen=found.solutions[place].node)


def _without_room(problem: Problem) -> Searched:
    return Searched(problem, (), (), None, Costs(), "context", {"problems without room for a step in the context": 1})


def from_result(result: SearchResult, row: int, problem: Problem, encoder: StepEncoder, shares: int = 1) -> Searched:
    """One problem of a compiled search as nodes with texts.

    Args:
      result: of the search; row: of the problem.
      encoder: gives the texts of ids.
      shares: problems among which the wall time is divided.
    """
    tree, nodes, cut = result.tree, [], 0
    at: dict[tuple[int, int], int] = {}  # (level, candidate) -> node; a path that was kept is on every later level
    for level in range(int(result.levels[row])):
        for place in range(tree.values.shape[2]):
            length, parent = int(tree.lengths[row, level, place]), int(tree.parents[row, level, place])
            before = at.get((level - 1, parent))
            if not length:
                if before is not None:
                    at[level, place] = before
                continue
            ids = tree.tokens[row, level, place, :length].tolist()
            value, finished = float(tree.values[row, level, place]), bool(tree.finished[row, level, place])
            closed = ids[-1] in (encoder.separator_id, encoder.end_id)
            scored = closed and ids != [encoder.end_id]
            cut += not closed
            at[level, place] = len(nodes)
            score = float(tree.scores[row, level, place])
            nodes.append(Node(len(nodes), before, encoder.tokenizer.decode(ids[:-1] if closed else ids), length,
                              score if scored and np.isfinite(score) else None,
                              value if np.isfinite(value) else None, bool(tree.kept[row, level, place]), finished))
    ended = tuple(Answered(at[node], nodes[at[node]].value) for node in solutions(tree, row))
    chosen = at.get((int(result.level[row]), int(result.candidate[row]))) if result.value[row] > -np.inf else None
    return Searched(problem, tuple(nodes), ended, chosen, _bill(result.costs, row, shares), result.stopped_by(row),
                    dict(tree_warnings(nodes, cut)))


def from_nodes(result: NodeResult, row: int, problem: Problem, encoder: StepEncoder, shares: int = 1) -> Searched:
    """`from_result` for searches that leave nodes. Steps that say the same as a sibling drawn with them are nodes without a
    score and a value."""
    tree, nodes, cut = result.tree, [], 0
    at: dict[int, int] = {0: -1}  # node of the tree -> place in the list
    for node in np.flatnonzero(tree.lengths[row]).tolist():
        ids = tree.tokens[row, node, : tree.lengths[row, node]].tolist()
        value, finished = float(tree.values[row, node]), bool(tree.finished[row, node])
        closed, usable = ids[-1] in (encoder.separator_id, encoder.end_id), value > -np.inf
        cut += not closed
        parent, at[node] = at[int(tree.parents[row, node])], len(nodes)
        nodes.append(Node(len(nodes), None if parent < 0 else parent, encoder.tokenizer.decode(ids[:-1] if closed else ids),
                          len(ids), float(tree.scores[row, node]) if usable and ids != [encoder.end_id] else None,
                          value if usable else None, bool(tree.kept[row, node]), finished))
    ended = tuple(Answered(at[node], nodes[at[node]].value) for node in tree.solutions(row))
    chosen = at[int(result.node[row])]
    return Searched(problem, tuple(nodes), ended, None if chosen < 0 else chosen, _bill(result.costs, row, shares),
                    result.stopped_by(row), dict(tree_warnings(nodes, cut)))


def _bill(costs: SearchCosts, row: int, shares: int) -> Costs:
    names = ("policy_tokens", "reward_tokens", "policy_forwards", "reward_forwards")
    counts = (int(getattr(costs, name)[row]) for name in names)
    return Costs(*counts, float(costs.flops[row]), costs.seconds / shares, costs.compilations if row == 0 else 0)
