"""What `jaxprm search` is told: which policies and reward models, how they search, what is right."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax

from jaxprm.errors import InputError
from jaxprm.generation.local_text import LocalTextPolicy
from jaxprm.generation.remote import Endpoint, RemotePolicy
from jaxprm.generation.sampler import SamplingConfig
from jaxprm.generation.text import TextPolicy
from jaxprm.generation.text_encoder import TextEncoder
from jaxprm.hub.checkpoints import local_directory
from jaxprm.hub.families import Settings
from jaxprm.hub.load import load_causal_model, load_prm
from jaxprm.models.parameters import on_mesh
from jaxprm.models.reward_model import PolicyRewardModel
from jaxprm.records import Problem
from jaxprm.search.searcher import Judge, Searcher, SearchSettings
from jaxprm.steps.format import StepFormat
from jaxprm.tasks.arithmetic import ArithmeticTask
from jaxprm.tasks.countdown import CountdownTask
from jaxprm.tasks.final_answer import final_answer
from jaxprm.tasks.grading import GradingKind, same_answer


@dataclasses.dataclass(frozen=True)
class LocalModel:
    """A policy on this machine.

    Attributes:
      path: a published language model (``hf:ORG/NAME`` is downloaded), or a model directory of our own; a model that is its own
        reward model may stand here, too.
      max_step_tokens: most tokens of a step; a step that does not end within them is discarded.
      sampling: how tokens are drawn.
      step_format: how a published model is asked: the text around a problem (``prompt_prefix``, ``prompt_suffix``), and the
        separator at which a step ends; ``None`` = its chat template, and steps that end at an empty line.
      system: what its chat template is told before the problem.
      dtype: "float32" or "bfloat16".
    """

    path: str
    max_step_tokens: int = 64
    sampling: SamplingConfig = SamplingConfig()
    step_format: StepFormat | None = None
    system: str = ""
    dtype: str = "float32"

    def __post_init__(self):
        if self.max_step_tokens < 1:
            raise InputError("must be at least 1", field="max_step_tokens", value=self.max_step_tokens)

    def open(self, settings: SearchSettings) -> TextPolicy:
        """The policy; see `load_causal_model` and `TextEncoder` for what raises."""
        loaded = load_causal_model(self.path, dtype=self.dtype)
        encoder = loaded.encoder
        if encoder is None:
            try:
                encoder = TextEncoder(loaded.tokenizer, loaded.end_ids, self.step_format, self.system)
            except InputError as error:
                raise error.located(file=self.path) from None
        elif self.step_format is not None or self.system:
            raise InputError("says itself how it is asked; leave step_format and system out", file=self.path)
        return LocalTextPolicy(loaded.model, encoder, max_steps=settings.max_steps + settings.strategy.lookahead,
                               sampling=self.sampling, max_step_tokens=self.max_step_tokens,
                               entropies=settings.strategy.entropies)


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A policy behind an OpenAI-compatible completions endpoint.

    Attributes:
      endpoint: where it is.
      step_format: the text around a problem (``prompt_prefix``, ``prompt_suffix``), and the separator at which a step ends.
      max_step_tokens, sampling: as in `LocalModel`.
      end_text: a solution has ended with the step that contains it; needed for servers that do not say why they stopped.
    """

    endpoint: Endpoint
    step_format: StepFormat = StepFormat()
    max_step_tokens: int = 256
    sampling: SamplingConfig = SamplingConfig()
    end_text: str = ""

    def open(self, settings: SearchSettings) -> TextPolicy:
        """The policy; nothing is asked of the endpoint yet."""
        if settings.strategy.entropies:
            raise InputError("reads entropies, which an endpoint does not give", field="strategy", value=settings.strategy.name,
                             hint="use a policy on this machine")
        return RemotePolicy(self.endpoint, self.step_format, max_step_tokens=self.max_step_tokens, sampling=self.sampling,
                            end_text=self.end_text)


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A process reward model.

    Attributes:
      path: a published checkpoint, a directory of our own, a run, or an export (`jaxprm.hub.load.load_prm`).
      family, reference, dtype, settings: as there; a reference makes it an implicit one.
    """

    path: str
    family: str | None = None
    reference: str | None = None
    dtype: str = "float32"
    settings: Settings = Settings()


@dataclasses.dataclass(frozen=True)
class NamedSearch:
    """One search.

    Attributes:
      name: what results call it.
      policy: writes the steps.
      reward_model: scores them.
      settings: the strategy and its limits.
    """

    name: str
    policy: LocalModel | ServedModel
    reward_model: Scorer
    settings: SearchSettings

    def __post_init__(self):
        if not self.name or "/" in self.name:
            raise InputError("must be a text without '/'", field="name", value=self.name)

    def check(self) -> None:
        """Raises InputError if a model is not where it should be; none is read yet (one on the Hub is downloaded)."""
        policy = self.policy.path if isinstance(self.policy, LocalModel) else None
        for path in (policy, self.reward_model.path, self.reward_model.reference):
            if path is not None:
                local_directory(path)

    def open(self, judge: Judge, grading: GradingKind, mesh: jax.sharding.Mesh | None = None) -> Searcher:
        """Loads the models, onto a mesh if there is one; see `load_prm` and `Searcher` for what raises."""
        policy, scorer = self.policy.open(self.settings), self.reward_model
        if isinstance(policy, LocalTextPolicy):
            policy.model = on_mesh(policy.model, mesh)
        loaded = load_prm(scorer.path, scorer.family, scorer.reference, dtype=scorer.dtype, settings=scorer.settings, mesh=mesh)
        if isinstance(loaded.model, PolicyRewardModel) and isinstance(self.policy, LocalModel) and (
                Path(self.policy.path).resolve() == Path(scorer.path).resolve()):
            policy.model = loaded.model.policy()  # one set of weights: text is read once for tokens and scores
        return Searcher(policy, loaded.model, loaded.encoder, self.settings, judge=judge, grading=grading, mesh=mesh)


@dataclasses.dataclass(frozen=True)
class Search:
    """A run of one or more searches over the same problems.

    Attributes:
      searches: each is run on all problems; results compare them with the first.
      input: file of problems: JSONL rows with ``problem`` and, where it is known, ``answer`` (``id`` and ``meta`` are kept).
        Rows of solutions will do as well: each problem is taken once.
      limit: only the first so many problems; 0 = all.
      task: judges solutions by its exact verifier; ``None``: the final answer (boxed, or behind ``answer_marker``) is compared
        with the reference answer.
      grading: how answers are compared, see `jaxprm.tasks.grading`.
      answer_marker: the text in front of a final answer.
      mesh: sizes of the mesh axes (data, fsdp, tensor), one of them -1 for the rest; None = one device.
      resamples: of the bootstrap behind every interval.
      show: problems whose trees the page draws.
    """

    searches: tuple[NamedSearch, ...]
    input: str
    limit: int = 0
    task: ArithmeticTask | CountdownTask | None = None
    grading: GradingKind = "exact"
    answer_marker: str = "Answer:"
    mesh: tuple[int, int, int] | None = None
    resamples: int = 1000
    show: int = 50

    def __post_init__(self):
        names = [search.name for search in self.searches]
        if not names:
            raise InputError("must name at least one search", field="searches", value=self.searches)
        if len(set(names)) < len(names):
            raise InputError("names a search twice", field="searches", value=names)
        for field, least in (("limit", 0), ("resamples", 1), ("show", 0)):
            if getattr(self, field) < least:
                raise InputError(f"must be at least {least}", field=field, value=getattr(self, field))

    def judge(self, problem: Problem, steps: tuple[str, ...]) -> tuple[str | None, bool | None]:
        """The final answer of a solution that has ended, and whether it is right (``None`` = cannot be told).

        Raises:
          InputError: the task does not know such a problem.
        """
        if self.task is not None:
            verdicts = self.task.judge(problem, steps)
            return verdicts.answer, verdicts.correct
        answer = final_answer(steps, self.answer_marker)
        return answer, None if problem.answer is None else same_answer(answer, problem.answer, self.grading)
