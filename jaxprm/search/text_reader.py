"""A reward model that reads the paths of a search as text: any encoder, state kept on the device, nothing read twice.

Each path's tokens are compared with those that its cache holds; only what is new is read. An encoder need not be append-only
for that: where it changes the end of an earlier encoding (a template that closes a turn, a token that merges), the cache is cut
back to what both have in common, and the rest is read, and counted, again.

    held    [q ? a |]              steps ("a",)
    now     [q ? a | b |]          steps ("a", "b"): [b |] is read, and the score is that of the last step's read position

The beginning of a step can be read before the step is whole: of our own encoder without a separator, at its last token; of any
other as that encoder writes a step, so that what closes it is read, and read again behind the whole step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxprm.errors import InputError
from jaxprm.generation.policy import pad_prompts
from jaxprm.models.cache import KVCache, empty_cache
from jaxprm.models.config import TransformerConfig
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.shared_rows import ROOM, SharedRows, spread
from jaxprm.models.transformer import LanguageModel, extend, prefill
from jaxprm.objectives.language_model import token_log_probs
from jaxprm.records import Problem
from jaxprm.scoring.implicit import ImplicitModel
from jaxprm.scoring.incremental import ScoreState, extend_scores, start_scores
from jaxprm.scoring.readings import is_bidirectional
from jaxprm.scoring.scorer import Encoder, bucket
from jaxprm.search.budget import read_flops
from jaxprm.steps.format import StepEncoder


@dataclasses.dataclass(frozen=True)
class _Path:
    """What is known of a path: its steps, its tokens, and for an implicit model the log-ratios of those behind the prompt."""

    steps: tuple[str, ...]
    ids: list[int]
    ratios: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Encoded:
    """A path's steps that are whole, the ids to be read, where the last of them (or its beginning) is read, and the first
    position whose log-ratio counts."""

    steps: tuple[str, ...]
    ids: list[int]
    end: int
    start: int


class TextReader:
    """Scores of C paths for each of B problems, step by step.

    Args:
      model: a reward model that reads forward, or an implicit one.
      encoder: text -> its tokens; our own, or that of a published family. A reference answer is never shown to it.
      problems, width: the batch, and C.

    Attributes:
      tokens, forwards: int[B], tokens read of each problem (its prompt once), and passes in which one of its paths took part.
      flops: float[B], as `read_flops` counts them.
      warnings: per problem, steps that could not be read, counted by reason.

    Raises (at construction):
      InputError: a model that reads whole solutions in both directions.
    """

    def __init__(self, model: RewardModel | ImplicitModel, encoder: Encoder, problems: Sequence[Problem], width: int):
        if is_bidirectional(model):
            raise InputError("reads whole solutions in both directions; a search shows it their beginnings", field="direction",
                             value=model.head.config.direction, hint="use a reward model that reads forward")
        self.model, self.problems, self.width = model, list(problems), width
        self.encoder, self._lag = encoder, int(isinstance(model, ImplicitModel))
        self._context = min(model.config.context, getattr(encoder, "max_tokens", None) or model.config.context)
        self._known: dict[tuple[str, str], list[int]] = {}
        self._paths: list[list[_Path]] = []
        self._prompts: list[list[int]] = []
        self._device: _Reward | _Implicit | None = None
        self.tokens, self.forwards = np.zeros(len(problems), np.int64), np.zeros(len(problems), np.int64)
        self.flops = np.zeros(len(problems))
        self.warnings: list[Counter[str]] = [Counter() for _ in problems]

    def read(self, texts: Sequence[Sequence[str | None]],
             begun: Bool[np.ndarray, "B C"] | None = None) -> Float[np.ndarray, "B C"]:
        """The score of one more step of each path that has one; NaN for the others, and for steps that cannot be read.

        ``begun``: it is the beginning of a step, which the path's next one completes; ``None`` = none is.
        """
        scores = np.full((len(self.problems), self.width), np.nan, np.float32)
        encoded: dict[tuple[int, int], _Encoded] = {}
        for row, rows in enumerate(texts):
            for place, text in enumerate(rows):
                if text is not None:
                    before = self._paths[row][place].steps if self._paths else ()
                    found = self._encode(row, (*before, text), begun is not None and bool(begun[row, place]))
                    if found is not None:
                        encoded[row, place] = found
        if self._device is None and (encoded or isinstance(self.encoder, StepEncoder)):
            self._begin(encoded, begun is not None)
        if not encoded:
            return scores
        held = np.array([[len(path.ids) - len(prompt) for path in rows] for rows, prompt in zip(self._paths, self._prompts)])
        new: dict[tuple[int, int], list[int]] = {}
        back = np.zeros(scores.shape, np.int32)
        for (row, place), found in list(encoded.items()):
            # Of an implicit model the newest token is a target only, and is read with the next step.
            common = _common(self._paths[row][place].ids, found.ids)
            known = min(common, len(found.ids) - 1) - self._lag
            if common < len(self._paths[row][place].ids):  # the newest state is of a token that is cut off
                known = min(known, found.end)
            behind = known - (len(self._prompts[row]) - self._lag)
            if behind < 0:
                self.warnings[row]["step unreadable: it changes how the problem is encoded"] += 1
                del encoded[row, place]
            else:
                held[row, place], new[row, place] = behind, found.ids[known:]
                back[row, place] = len(found.ids) - 1 - found.end
        if not encoded:
            return scores
        values = self._device.read(held, new, back)
        for (row, place), found in encoded.items():
            ratios = ()
            if self._lag:
                first = len(self._prompts[row]) - 1
                ratios = (*self._paths[row][place].ratios[: held[row, place]], *values[row, place].tolist())
                ratios = ratios[: len(found.ids) - 1 - first]
                scores[row, place] = self.model.coefficient * sum(ratios[found.start - first : found.end + 1 - first])
            else:
                scores[row, place] = values[row, place]
            self._paths[row][place] = _Path(found.steps, found.ids, ratios)
            self.tokens[row] += len(new[row, place]) - self._lag
        for row in {row for row, _ in encoded}:
            self.forwards[row] += 1
        start, lengths = np.zeros(scores.shape, np.int32), np.zeros(scores.shape, np.int32)
        for (row, place), ids in new.items():
            start[row, place], lengths[row, place] = len(self._prompts[row]) + held[row, place], len(ids) - self._lag
        self._spend(start, lengths)
        return scores

    def _spend(self, start: Int[np.ndarray, "B C"], lengths: Int[np.ndarray, "B C"]) -> None:
        longest = bucket(int(lengths.max()), 8)
        for model in (self.model.policy, self.model.reference) if self._lag else (self.model,):
            self.flops += flops_read(model.config, start, lengths, longest, vocabulary=bool(self._lag))

    def gather(self, parents: Int[np.ndarray, "B C"]) -> None:
        """Path (b, c) now continues what was path (b, parents[b, c])."""
        if self._device is not None:
            self._paths = [[rows[parent] for parent in chosen] for rows, chosen in zip(self._paths, parents.tolist())]
            self._device.gather(parents)

    def mark(self) -> Any:
        """The paths as they are, for `back`."""
        return [list(rows) for rows in self._paths], self._device and self._device.mark()

    def back(self, mark: Any) -> None:
        """Takes back the steps read since ``mark``, and no gather since; the next step of a path overwrites them."""
        self._paths, on_device = mark
        if self._device is not None:
            self._device.back(on_device)

    def _encode(self, row: int, steps: tuple[str, ...], begun: bool = False) -> _Encoded | None:
        try:
            found = _Encoded(steps[: len(steps) - begun], *self._row(self.problems[row].prompt, steps, begun))
        except InputError as error:
            self.warnings[row][f"step unreadable: {error.message}"] += 1
            return None
        if len(found.ids) > self._context:
            self.warnings[row]["step unreadable: the reward model's context is full"] += 1
            return None
        return found

    def _row(self, prompt: str, steps: tuple[str, ...], begun: bool) -> tuple[list[int], int, int]:
        """Ids to be read, where the last step is read, and the first position whose log-ratio counts."""
        if isinstance(self.encoder, StepEncoder):  # it joins pieces that are encoded alone, so each of them is encoded once
            pieces = [self._piece("prompt", prompt), *(self._piece("step", step) for step in steps)]
            if begun and self.encoder.separator_id is not None:
                pieces[-1] = pieces[-1][:-1]
                if not pieces[-1]:
                    raise InputError("has no token", field="step", value=steps[-1])
            ids = [token for piece in pieces for token in piece]
            return ids, len(ids) - 1 - (0 if begun else self.encoder.read_back) - self._lag, len(pieces[0]) - 1
        if hasattr(self.encoder, "encode_rows"):
            ids, ends, *start = self.encoder.encode_rows(prompt, steps, None)[-1]
        else:
            (ids, ends), start = self.encoder.encode(prompt, steps), []
        # What stands behind the last read position says nothing of it.
        return list(ids[: ends[-1] + 1 + self._lag]), ends[-1], start[0] if start else 0

    def _piece(self, kind: str, text: str) -> list[int]:
        if (kind, text) not in self._known:
            if kind == "step" and not text.strip() and self.encoder.separator_id is not None:
                # Read like any other, as the compiled search does.
                ids = [*self.encoder.tokenizer.encode(text), self.encoder.separator_id]
            else:
                ids = getattr(self.encoder, f"encode_{kind}")(text)
            self._known[kind, text] = ids
        return self._known[kind, text]

    def _begin(self, first: dict[tuple[int, int], _Encoded], begun: bool) -> None:
        """Reads the prompts: those of our own format as they are, else what the first encodings of a problem have in common;
        of beginnings, whose last token may change, what they have in common with any step."""
        for row, problem in enumerate(self.problems):
            mine = [found for (owner, _), found in first.items() if owner == row]
            if isinstance(self.encoder, StepEncoder):
                common = self._piece("prompt", problem.prompt)
                common = common if len(common) < self._context else []  # there is no room for a step
            elif mine := mine + (self._examples(problem.prompt, first) if begun or not mine else []):
                # Not the token at which a step is read, nor any whose log-ratio counts.
                common = functools.reduce(lambda ids, found: ids[: _common(ids, found.ids)], mine, mine[0].ids)
                common = common[: min((found.start + 1 if self._lag else len(found.ids) - 1) for found in mine)]
            else:
                common = []
            self.tokens[row], self.forwards[row] = len(common), bool(common)
            self._prompts.append(common or [0, 0])
        self._spend(np.zeros((len(self.problems), 1), np.int32), self.tokens.astype(np.int32)[:, None])
        self._paths = [[_Path((), prompt)] * self.width for prompt in self._prompts]
        tokens, lengths = pad_prompts([prompt[: len(prompt) - self._lag] for prompt in self._prompts])
        make = _Implicit if self._lag else _Reward
        self._device = make(self.model, jnp.asarray(tokens), jnp.asarray(lengths), self.width)

    def _examples(self, prompt: str, first: dict[tuple[int, int], _Encoded]) -> list[_Encoded]:
        """What any first step of a problem may look like: some of other problems, and two more."""
        texts = [*dict.fromkeys(found.steps[:1] for found in first.values() if found.steps)][:2] + [("0",), ("a",)]
        examples = []
        for steps in texts:
            try:
                examples.append(_Encoded(steps, *self._row(prompt, steps, False)))
            except InputError:
                continue
        return [one for one in examples if len(one.ids) <= self._context]


def flops_read(config: TransformerConfig, start: Int[np.ndarray, "B C"], lengths: Int[np.ndarray, "B C"], longest: int,
               vocabulary: bool) -> Float[np.ndarray, " B"]:
    """FLOPs per problem of reading ``lengths`` tokens behind ``start`` others (`jaxprm.search.budget.read_flops`)."""
    return np.asarray(_read_flops(config, jnp.asarray(start), jnp.asarray(lengths), longest, vocabulary), np.float64).sum(1)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that both begin with."""
    shorter = min(len(first), len(second))
    return next((place for place in range(shorter) if first[place] != second[place]), shorter)


class _Reward:
    """What a reward model has read, on the device; only paths that read on are computed."""

    def __init__(self, model: RewardModel, prompts: Array, lengths: Array, width: int):
        self._model, self._shape = model, (len(prompts), width)
        state = _start_scores(model, prompts, lengths, 1, ROOM)
        self._rows = SharedRows(state.cache, state.last, width, model.config.context)

    def read(self, held: Int[np.ndarray, "B C"], new: dict[tuple[int, int], list[int]],
             back: Int[np.ndarray, "B C"]) -> Float[np.ndarray, "B C"]:
        """Cuts paths back to the ``held`` tokens behind their prompts and reads the ``new`` ones; scores so many tokens
        ``back`` from their ends."""
        tokens, lengths = _pad(new, self._shape)
        places, cache, last = self._rows.take(lengths.reshape(self._shape) > 0, held, tokens.shape[1])
        scores, state = _extend_scores(self._model, ScoreState(cache, last, jnp.int32(0)), _at(places, tokens),
                                       _at(places, lengths), _at(places, back.reshape(-1)))
        self._rows.put(state.cache, state.last)
        return spread(scores, places, lengths.size).reshape(self._shape)

    def gather(self, parents: Int[np.ndarray, "B C"]) -> None:
        self._rows.gather(parents)

    def mark(self) -> Any:
        return self._rows.mark()

    def back(self, mark: Any) -> None:
        self._rows.back(mark)


class _Implicit:
    """What the two models of an implicit reward model have read."""

    def __init__(self, model: ImplicitModel, prompts: Array, lengths: Array, width: int):
        self._models, self._shape = (model.policy, model.reference), (len(prompts), width)
        self._rows = [SharedRows(_prompt_cache(part, prompts, lengths), (), width, part.config.context)
                      for part in self._models]

    def read(self, held: Int[np.ndarray, "B C"], new: dict[tuple[int, int], list[int]],
             back: Int[np.ndarray, "B C"]) -> Float[np.ndarray, "B C T"]:
        """As of `_Reward`, but all ``new`` tokens but the last are read: log(policy / reference) of the token behind each, of
        which the caller chooses."""
        del back
        tokens, lengths = _pad(new, self._shape)
        found = []
        for rows, model in zip(self._rows, self._models):
            places, cache, _ = rows.take(lengths.reshape(self._shape) > 0, held, tokens.shape[1] - 1)
            values, cache = _log_probs(model, cache, _at(places, tokens), jnp.maximum(_at(places, lengths) - 1, 0))
            rows.put(cache, ())
            found.append(spread(values, places, lengths.size))
        return (found[0] - found[1]).reshape(*self._shape, -1)

    def gather(self, parents: Int[np.ndarray, "B C"]) -> None:
        for rows in self._rows:
            rows.gather(parents)

    def mark(self) -> Any:
        return [rows.mark() for rows in self._rows]

    def back(self, mark: Any) -> None:
        for rows, marked in zip(self._rows, mark):
            rows.back(marked)


_read_flops = jax.jit(read_flops, static_argnums=(0, 3, 4))
_start_scores = jax.jit(start_scores, static_argnames=("width", "capacity"))
_extend_scores = jax.jit(extend_scores, donate_argnums=1)


@jax.jit
def _prompt_cache(model: LanguageModel, prompts: Int[Array, "B P"], lengths: Int[Array, " B"]) -> KVCache:
    return empty_cache(model.config, prompts.shape[0], ROOM, prefill(model.backbone, prompts, lengths)[1])


@functools.partial(jax.jit, donate_argnums=1)
def _log_probs(model: LanguageModel, cache: KVCache, tokens: Int[Array, "R T"],
               lengths: Int[Array, " R"]) -> tuple[Float[Array, "R U"], KVCache]:
    """Log-probabilities of ``tokens[:, 1:]``, all but the last of which are read."""
    hidden, cache = extend(model.backbone, cache, tokens[:, :-1], lengths)
    matrix = model.output_matrix().astype(hidden.dtype)
    return token_log_probs(hidden, matrix, tokens[:, 1:], softcap=model.config.logit_softcap), cache


def _pad(new: dict[tuple[int, int], list[int]], shape: tuple[int, int]) -> tuple[Int[np.ndarray, "N T"], Int[np.ndarray, " N"]]:
    """Ids of all N = B * C paths, and how many: 0 for paths without new ones."""
    tokens = np.zeros((*shape, bucket(max(map(len, new.values())), 8)), np.int32)
    lengths = np.zeros(shape, np.int32)
    for key, ids in new.items():
        tokens[key][: len(ids)] = ids
        lengths[key] = len(ids)
    return tokens.reshape(-1, tokens.shape[-1]), lengths.reshape(-1)


def _at(places: Int[np.ndarray, " R"], values: Int[np.ndarray, "N ..."]) -> Int[Array, "R ..."]:
    """Values of the paths that have rows; 0 for rows without a path."""
    found = values[np.maximum(places, 0)]
    return jnp.asarray(np.where((places >= 0).reshape(-1, *[1] * (found.ndim - 1)), found, 0))
