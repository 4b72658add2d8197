"""`Searcher`: problems in, searched problems out; compiled where policy and reward model share token ids, else through text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxprm.errors import InputError
from jaxprm.generation.local_text import LocalTextPolicy, problem_keys
from jaxprm.generation.policy import pad_prompts
from jaxprm.generation.text import TextPolicy
from jaxprm.models.parameters import on_mesh
from jaxprm.models.reward_model import PolicyRewardModel, RewardModel
from jaxprm.models.sharding import auto_axes, batch_parts, mesh_scope
from jaxprm.models.transformer import LanguageModel
from jaxprm.records import Problem
from jaxprm.scoring.aggregation import AGGREGATIONS, Aggregation
from jaxprm.scoring.implicit import ImplicitModel
from jaxprm.scoring.scorer import Encoder, bucket
from jaxprm.scoring.votes import NO_ANSWER, VOTES, Vote, select_ids
from jaxprm.search.budget import Budget
from jaxprm.search.engine import search
from jaxprm.search.nodes import NodeResult, NodeStrategy, Said
from jaxprm.search.result import SearchResult, solutions
from jaxprm.search.searched import Answered, Costs, Node, Searched, tree_warnings
from jaxprm.search.strategies import Strategy
from jaxprm.search.text_nodes import reader_width, search_nodes
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
      strategy: which paths go on.
      max_steps: most steps of a path.
      aggregation: path value from step scores; ``None`` = the reward model's own.
      vote: how the answer is chosen among the paths that have ended: "best" as the strategy ranks them, else one of the votes
        of `jaxprm.scoring.votes`, with path values as scores.
      budget: limits of each problem beside ``max_steps``; wall time is that of a batch.
      batch_problems: problems that are searched at a time.
      compaction: how often the rows that are computed may be halved when paths have ended (`jaxprm.search.engine.search`);
        results do not depend on it. For level strategies in a compiled search.
      doublings: how often the caches of a compiled search may double as paths get longer; likewise.
      seed: everything random follows from it and from a problem's id and text.
    """

    strategy: Strategy | NodeStrategy
    max_steps: int = 16
    aggregation: Aggregation | None = None
    vote: Vote = "best"
    budget: Budget = Budget()
    batch_problems: int = 32
    compaction: int = 0
    doublings: int = 0
    seed: int = 0

    def __post_init__(self):
        for field, least in (("max_steps", 1), ("batch_problems", 1), ("compaction", 0), ("doublings", 0)):
            if getattr(self, field) < least:
                raise InputError(f"must be at least {least}", field=field, value=getattr(self, field))
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
      mesh: devices of a compiled search (one process): problems are split over data and fsdp, weights over fsdp and tensor.
        ``None`` = one device.

    Attributes:
      aggregation: path value from step scores.
      compiled: whether a search runs as one compiled program. Both ways give the same results.

    Raises (at construction):
      InputError: a vote without a judge, a reward model that cannot read beginnings of solutions, a setting that this way of
        searching does not know, or a mesh that does not divide a model or a batch.
    """

    def __init__(self, policy: TextPolicy, model: RewardModel | ImplicitModel, encoder: Encoder, settings: SearchSettings, *,
                 judge: Judge | None = None, grading: GradingKind = "exact", mesh: jax.sharding.Mesh | None = None):
        if settings.vote != "best" and judge is None:
            raise InputError("needs answers to vote on", field="vote", value=settings.vote, hint="give a judge that reads them")
        self.policy, self.model, self.encoder, self.settings = policy, model, encoder, settings
        self.judge, self.grading, self.mesh = judge, grading, None if mesh is None else auto_axes(mesh)
        self.aggregation = settings.aggregation or getattr(encoder, "aggregation", "min")
        local = isinstance(policy, LocalTextPolicy)
        self.compiled = (local and isinstance(model, RewardModel) and isinstance(encoder, StepEncoder)
                         and isinstance(policy.encoder, StepEncoder) and share_ids(policy.encoder, encoder))
        for field in ("compaction", "doublings"):
            if isinstance(settings.strategy, NodeStrategy) and getattr(settings, field):
                raise InputError(f"is of level strategies; {settings.strategy.name} has none", field=field,
                                 value=getattr(settings, field), hint="leave it out")
        if self.compiled:
            self._models = self._on_devices()
        else:
            _check_text_search(settings, mesh)
            TextReader(model, encoder, [], 1)  # refuses what cannot be read
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

    def _on_devices(self) -> tuple[LanguageModel | PolicyRewardModel, RewardModel]:
        """Both models where they are used; twice the same one if the policy is its own reward model and can be searched so."""
        parts = 1 if self.mesh is None else batch_parts(self.mesh)
        if self.settings.batch_problems % parts:
            raise InputError(f"the mesh splits problems into {parts} equal parts", field="batch_problems",
                             value=self.settings.batch_problems, hint=f"choose a multiple of {parts}, or another mesh")
        own = isinstance(self.model, PolicyRewardModel) and self.policy.model.backbone is self.model.backbone
        model = on_mesh(self.model, self.mesh)
        if not own:
            return on_mesh(self.policy.model, self.mesh), model
        return model.policy() if self.encoder.read_back or isinstance(self.settings.strategy, NodeStrategy) else model, model

    def _through_text(self, problems: Sequence[Problem]) -> list[Searched]:
        settings, strategy = self.settings, self.settings.strategy
        if isinstance(strategy, NodeStrategy):
            run, width = search_nodes, reader_width(strategy.growth(settings.max_steps, self.aggregation))
        else:
            run, width = search_texts, strategy.rows
        return run(self.policy, TextReader(self.model, self.encoder, problems, width), strategy, max_steps=settings.max_steps,
                   seed=settings.seed, aggregation=self.aggregation, budget=settings.budget)

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
        given = *self._models, keys, tokens, lengths
        how = dict(max_steps=settings.max_steps, max_step_tokens=policy.max_step_tokens, sampling=policy.sampling,
                   aggregation=self.aggregation, separator_id=encoder.separator_id, end_id=encoder.end_id,
                   read_back=encoder.read_back, budget=settings.budget)
        sizes = dict(compaction=settings.compaction, doublings=settings.doublings)
        with mesh_scope(self.mesh):
            if isinstance(settings.strategy, NodeStrategy):
                found = settings.strategy.search(*given, **how)
            else:
                found = search(*given, settings.strategy, **sizes, **how)
        for row, i in enumerate(members):
            if isinstance(found, NodeResult):
                results[i] = found.searched(row, problems[i], said_by(found, row, encoder), len(members))
            else:
                results[i] = from_result(found, row, problems[i], encoder, len(members))
        return results

    def _judged(self, found: Searched) -> Searched:
        if self.judge is None:
            return found
        judged = [self.judge(found.problem, found.steps(one.node)) for one in found.solutions]
        answers = tuple(dataclasses.replace(one, answer=answer, correct=correct)
                        for one, (answer, correct) in zip(found.solutions, judged))
        return voted(dataclasses.replace(found, solutions=answers), self.settings.vote, self.grading)


def _check_text_search(settings: SearchSettings, mesh: jax.sharding.Mesh | None) -> None:
    """Raises InputError if settings need a compiled search."""
    how = "use a policy on this machine that shares the reward model's tokenizer and step format"
    devices = None if mesh is None else tuple(mesh.shape.values())
    for refused, field, value, why in (
            (settings.compaction, "compaction", settings.compaction, "leaves out rows of compiled programs"),
            (settings.doublings, "doublings", settings.doublings, "enlarges the caches of compiled programs"),
            (settings.budget.compilations, "compilations", settings.budget.compilations, "limits the programs of a search"),
            (devices, "mesh", devices, "splits problems over devices")):
        if refused:
            raise InputError(f"{why}, which only a compiled search can", field=field, value=value, hint=how)


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
            closed, rejected = ids[-1] in (encoder.separator_id, encoder.end_id), length < tree.tokens.shape[-1]
            scored = ids != [encoder.end_id] if closed else rejected
            cut += not (closed or rejected)  # a step that was not rejected early was drawn to its end, or the limit
            at[level, place] = len(nodes)
            score = float(tree.scores[row, level, place])
            nodes.append(Node(len(nodes), before, encoder.tokenizer.decode(ids[:-1] if closed else ids), length,
                              score if scored and np.isfinite(score) else None,
                              value if np.isfinite(value) else None, bool(tree.kept[row, level, place]), finished))
    ended = tuple(Answered(at[node], nodes[at[node]].value) for node in solutions(tree, row))
    chosen = at.get((int(result.level[row]), int(result.candidate[row]))) if result.value[row] > -np.inf else None
    return Searched(problem, tuple(nodes), ended, chosen, result.costs.of(row, shares), result.stopped_by(row),
                    dict(tree_warnings(nodes, cut)))


def said_by(result: NodeResult, row: int, encoder: StepEncoder) -> dict[int, Said]:
    """What the nodes of a compiled search say."""
    said = {}
    for node in np.flatnonzero(result.tree.lengths[row]).tolist():
        ids = result.tree.tokens[row, node, : result.tree.lengths[row, node]].tolist()
        closed = ids[-1] in (encoder.separator_id, encoder.end_id)
        said[node] = Said(encoder.tokenizer.decode(ids[:-1] if closed else ids), len(ids), not closed, ids == [encoder.end_id])
    return said
