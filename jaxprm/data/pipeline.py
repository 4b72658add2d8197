"""Packed batches from host examples: deterministic, resumable, sharded by process (grain).

Several solutions share a row; attention is kept inside a solution by ``segment_ids``. ``step_ends`` point into the row:

    examples    a: tokens [5 6 7 8], step_ends [1 3]      b: tokens [3 9 4], step_ends [2]
    tokens        [5 6 7 8 3 9 4 0]
    positions     [0 1 2 3 0 1 2 0]
    segment_ids   [1 1 1 1 2 2 2 0]      0 = padding
    step_ends     [1 3 6 0]
    step_mask     [1 1 1 0]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from jaxprm.data.columns import batch_columns, column_names, single_solutions, stack_columns
from jaxprm.data.examples import Example, FitCounts, OverlongPolicy, fit_language_model_examples
from jaxprm.data.fitting import FittedExamples
from jaxprm.data.lengths import packing_window
from jaxprm.data.mixture import Part, mix, shares
from jaxprm.errors import InputError


class _PackedDataset:
    """What both datasets share: shuffle, repeat, pack into rows, batch."""

    def __init__(self, sources: Sequence[Sequence], weights: Sequence[float],
                 lengths: dict[str, int], padding: dict[str, int], *, batch_rows: int, seed: int | None,
                 epochs: int | None, packing: bool, process_index: int, process_count: int):
        for field, value in (*lengths.items(), ("batch_rows", batch_rows), ("epochs", 1 if epochs is None else epochs)):
            if value < 1:
                raise InputError("must be at least 1", field=field, value=value)
        if seed is not None and not 0 <= seed < 2**32:
            raise InputError("must be in [0, 2**32)", field="seed", value=seed)
        if not 0 <= process_index < process_count:
            raise InputError(f"must be in [0, {process_count})", field="process_index", value=process_index)
        if (process_count > 1 or len(sources) > 1) and epochs is not None:
            raise InputError("must be None (endless) with several processes or sources, which would end at different batches",
                             field="epochs", value=epochs)
        datasets = []
        for index, elements in enumerate(sources):
            if len(elements) < process_count:
                raise InputError(f"there are {len(elements)} examples for {process_count} process(es)", field="examples")
            dataset = grain.MapDataset.source(elements)[process_index::process_count]
            if seed is not None:
                dataset = dataset.shuffle((seed + index) % 2**32)
            datasets.append(dataset.repeat(epochs))
        # What is read is in memory or in the page cache: reader threads would only cost (measured: half the speed with two).
        rows = mix(datasets, weights).to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        window = packing_window(batch_rows) if packing else batch_rows
        rows = grain.experimental.BestFitPackIterDataset(
            rows, length_struct=lengths, num_packing_bins=window, padding_struct=padding, seed=seed or 0,
            shuffle_bins=packing and seed is not None, max_sequences_per_bin=None if packing else 1)
        self._batches = rows.batch(batch_rows, batch_fn=lambda rows: self._batch(_stack(rows, batch_rows, padding)))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """A grain iterator: ``get_state()`` (JSON) and ``set_state(state)`` resume exactly, also by way of orbax."""
        return iter(self._batches)

    def _batch(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = {"tokens": "tokens", "positions": "tokens_positions", "segment_ids": "tokens_segment_ids"}
        return {name: rows[packed] for name, packed in names.items()}


class StepDataset(_PackedDataset):
    """Batches of step-labelled solutions; iterating yields dicts of numpy arrays with the fields of `StepBatch`.

    ``tokens, positions, segment_ids int32[B, T]``, ``step_ends int32[B, S]``, ``step_mask, label_mask bool[B, S]``,
    ``labels, weights float32[B, S]`` with B = ``batch_rows``, T = ``row_tokens``, S = ``row_steps``. The last batch of
    a finite dataset is filled up with empty rows (all padding, all masks False). Examples may have more columns
    (`jaxprm.data.columns`) and hold several solutions (`jaxprm.data.bundles`); the first one says which columns there are.

    Args:
      examples: step examples (`jaxprm.data.examples.step_example`) in memory or stored (`jaxprm.data.arrayrecord`), or the
        `jaxprm.data.mixture.Part` of a mixture.
      row_tokens, row_steps: size of a row; a row is full when either runs out.
      batch_rows: rows of a batch on this process.
      seed: shuffles anew in every epoch; None keeps the order of ``examples`` (evaluation).
      epochs: how often each example is seen; None = endless.
      packing: several solutions per row; else one.
      overlong: see `jaxprm.data.fitting.FittedExamples`.
      pad_id: token id of the padding.
      process_index, process_count: this process reads every ``process_count``-th example. The iterator's state belongs
        to that process count.

    Attributes:
      parts: the sources after fitting, before sharding (one called "data" if ``examples`` is no mixture).

    Raises:
      InputError: a value out of range, no examples, or a too long example under ``overlong="error"``.
    """

    def __init__(self, examples: Sequence[Example] | Sequence[Part], *, row_tokens: int, row_steps: int, batch_rows: int,
                 seed: int | None, epochs: int | None = None, packing: bool = True, overlong: OverlongPolicy = "error",
                 pad_id: int = 0, process_index: int = 0, process_count: int = 1):
        parts = examples if len(examples) and isinstance(examples[0], Part) else [Part("data", examples)]
        self.parts = tuple(dataclasses.replace(part, examples=FittedExamples(part.examples, row_tokens, row_steps, overlong))
                           for part in parts)
        for part in self.parts:
            if not len(part.examples) and len(parts) > 1:
                raise InputError(f"none of the {part.examples.counts.dropped} examples of '{part.name}' fits a row",
                                 field="overlong", value=overlong, hint="use longer rows, or leave this source out")
        first = self.parts[0].examples
        self._columns = column_names(first[0]) if len(first) else ()
        super().__init__([_Elements(part.examples, self._columns) for part in self.parts], [part.weight for part in self.parts],
                         {"tokens": row_tokens, "steps": row_steps}, {"tokens": pad_id, "steps": 0},
                         batch_rows=batch_rows, seed=seed, epochs=epochs, packing=packing, process_index=process_index,
                         process_count=process_count)

    @property
    def counts(self) -> FitCounts:
        """How many examples of all parts fitted, were cut, or left out."""
        counts = [part.examples.counts for part in self.parts]
        return FitCounts(*(sum(getattr(count, field.name) for count in counts) for field in dataclasses.fields(FitCounts)))

    def shares(self, count: int) -> dict[str, dict[str, float]]:
        """What each part contributes to the first ``count`` examples, see `jaxprm.data.mixture.shares`."""
        return shares(self.parts, [part.examples.table for part in self.parts], count)

    def _batch(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        batch = super()._batch(rows)
        starts = _segment_starts(batch["positions"], batch["segment_ids"], int(rows["steps_segment_ids"].max(initial=0)))
        return single_solutions(batch) | batch_columns(rows, starts, self._columns)


class LanguageModelDataset(_PackedDataset):
    """Batches for next-token training: ``tokens, positions, segment_ids int32[B, T]`` and ``loss_mask bool[B, T]``.

    ``loss_mask[b, t]`` says that token t is learnt, i.e. predicted from the tokens of its own solution before it; it is
    False on padding and on the first token of every solution. Arguments as for `StepDataset`.
    """

    def __init__(self, examples: Sequence[Example], *, row_tokens: int, batch_rows: int, seed: int | None,
                 epochs: int | None = None, packing: bool = True, overlong: OverlongPolicy = "error", pad_id: int = 0,
                 process_index: int = 0, process_count: int = 1):
        self.examples, self.counts = fit_language_model_examples(examples, row_tokens, overlong)
        elements = [{"tokens": example["tokens"], "loss_mask": example["loss_mask"]} for example in self.examples]
        super().__init__([elements], [1.0], {"tokens": row_tokens, "loss_mask": row_tokens},
                         {"tokens": pad_id, "loss_mask": 0}, batch_rows=batch_rows, seed=seed, epochs=epochs,
                         packing=packing, process_index=process_index, process_count=process_count)

    def _batch(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        batch = super()._batch(rows)
        return batch | {"loss_mask": rows["loss_mask"] & (batch["positions"] > 0)}


class _Elements(Sequence):
    """Step examples as grain's packer takes them. It costs time per feature and example, so that the step arrays travel as
    columns of one (floats as bits)."""

    def __init__(self, examples: Sequence[Example], columns: tuple[str, ...]):
        self._examples, self._columns = examples, columns

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        example = self._examples[index]
        return {"tokens": example["tokens"], "steps": stack_columns(example, self._columns)}


def _segment_starts(positions: np.ndarray, segment_ids: np.ndarray, segments: int) -> np.ndarray:
    """First token of each segment: int32[B, segments + 1]; column 0 (padding) is 0."""
    starts = np.zeros((len(positions), segments + 1), np.int32)
    row, column = np.nonzero((positions == 0) & (segment_ids > 0))
    starts[row, segment_ids[row, column]] = column
    return starts


def _stack(rows: Sequence[dict[str, np.ndarray]], batch_rows: int, padding: dict[str, int]) -> dict[str, np.ndarray]:
    """Stacks rows and adds empty ones up to ``batch_rows``: all batches have one shape, so nothing compiles twice."""
    batch = {}
    for name, first in rows[0].items():
        batch[name] = np.full((batch_rows, *first.shape), padding.get(name, 0), first.dtype)
        batch[name][:len(rows)] = [row[name] for row in rows]
    return batch
