"""``jaxprm bench NAME``: reward models, simple baselines and scores from files, measured on the same solutions.

Every system is measured on the same rows: those that fit the context of every model. Scores of models are kept on disk, so that
another metric, or another benchmark with the same solutions, costs no forward pass.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprm.data.examples import OverlongPolicy
from jaxprm.data.rows import located, rows_sha256
from jaxprm.data.solutions import SolutionFiles, label_statistics, load_solutions, split_by_problem
from jaxprm.errors import InputError
from jaxprm.evaluation.baselines import fit_position_length, fit_tfidf
from jaxprm.evaluation.benchmarks import BENCHMARKS, Benchmark, EvaluateOptions, Evaluation, Item, ReadPolicies
from jaxprm.evaluation.benchmarks.base import EMPTY_STEPS
from jaxprm.evaluation.results import to_json
from jaxprm.evaluation.score_files import named_file, read_scores
from jaxprm.metrics import Interval, ThresholdProtocol, best_threshold, paired_statistics
from jaxprm.models.reward_model import RewardModel
from jaxprm.pipelines.bench_models import Computing, ModelChoice
from jaxprm.pipelines.bench_tables import print_results, short_name
from jaxprm.pipelines.step_data import encode_rows, kept, which_fit
from jaxprm.progress import Progress
from jaxprm.records import AfterErrorPolicy, LabeledSolution, NeutralPolicy, atomic_write
from jaxprm.reports.benchmark import draw_benchmark
from jaxprm.reports.benchmark_page import render_benchmark
from jaxprm.scoring.score_cache import ScoreCache, model_fingerprint, score_key
from jaxprm.scoring.scorer import Row, StepScorer

RESAMPLES = 1000
RESAMPLING_KEY = 0
_CHUNK = 2**17  # tokens that are scored between two writes to the cache


@dataclasses.dataclass(frozen=True, eq=False)
class _System:
    """What gives scores: a model, a baseline, or a file.

    Attributes:
      name: unique among the systems.
      chosen: threshold that was chosen for it beforehand: (name of the split, number).
      model, fingerprint, info: of a model.
      baseline: of a baseline.
      file: of a file of scores.
    """

    name: str
    chosen: tuple[str, float] | None = None
    model: StepScorer | None = None
    fingerprint: str = ""
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    baseline: Callable[[Sequence[LabeledSolution]], list[np.ndarray]] | None = None
    file: Path | None = None

    @property
    def probabilities(self) -> bool:
        """Whether scores are known to be probabilities before they are made."""
        if self.model is None:
            return self.baseline is not None
        model = self.model.model
        return isinstance(model, RewardModel) and model.head.config.kind not in ("value", "difference")


@dataclasses.dataclass(frozen=True, eq=False)
class _Set:
    """Items that are measured together, those that do not count included."""

    name: str
    files: tuple[str, ...]
    items: list[Item]


def run(name: str, models: Sequence[str | os.PathLike | ModelChoice], data: Sequence[str | os.PathLike], *,
        scores: Sequence[str] = (), baselines_from: Sequence[str | os.PathLike] = (), twin: int | None = None, seed: int = 0,
        threshold: str | None = None, neutral: NeutralPolicy | None = None, after_error: AfterErrorPolicy = "keep",
        drop_empty: bool = False, overlong: OverlongPolicy = "error", resamples: int | None = None,
        computing: Computing = Computing(), cache: str | os.PathLike | None = None,
        json_path: str | os.PathLike | None = None, html: str | os.PathLike | None = None,
        plot: str | os.PathLike | None = None, progress: Progress) -> dict[str, Any]:
    """Evaluates models on a benchmark, prints tables, and returns (and writes) every number.

    Every number that comes with an interval (95 %, from resampling problems) also comes with a paired test of each two systems
    (but for the accuracies behind an F1, and the ECE).

    Args:
      name: one of `BENCHMARKS`.
      models: of our own, their runs, exports, and published ones; a directory alone stands for what it says of itself.
      data: files of the benchmark.
      scores: ``FILE`` or ``NAME=FILE`` with scores that someone else produced (`jaxprm.evaluation.score_files`).
      baselines_from: files to fit the baselines on. Where the first model held out problems of its training files, they are
        left out here too, and the baselines' thresholds are chosen on them.
      twin: instead of ``data``: a procedural benchmark of the same form with so many problems.
      seed: of the twin.
      threshold: a number, ``split:NAME`` or ``oracle``; default: fixed at 0.5.
      neutral: how a neutral rating counts; by default as when the models were trained, "good" if none of them says.
      after_error: what steps behind the first wrong one count as.
      drop_empty: leave out empty steps instead of refusing the file.
      overlong: "error", or "drop" (and count) solutions longer than the context of one of the models.
      resamples: of the bootstrap; default `RESAMPLES`.
      computing: type, devices and batches of the models.
      cache: folder of kept scores, None = keep none.
      json_path: where to write the numbers, all or nothing.
      html: where to write a page with numbers, tests and curves.
      plot: where to write a PNG with the first two numbers of all systems.

    Raises:
      InputError: bad input, in one line with file, row, field and value.
    """
    benchmark = _benchmark(name)
    if overlong not in ("error", "drop"):
        raise InputError("must be error or drop: half a solution has another first error", field="overlong",
                         value=overlong)
    if (twin is None) == (not data):
        raise InputError("give the files of the benchmark, or --twin N" if twin is None else "cannot be given beside --twin",
                         field="data")
    if twin is not None and benchmark.twin is None:
        raise InputError("this benchmark has no procedural twin", field="twin", value=twin, hint="give its files with --data")
    options = EvaluateOptions(parse_threshold(threshold), RESAMPLING_KEY, RESAMPLES if resamples is None else resamples)
    systems = [_model(model if isinstance(model, ModelChoice) else ModelChoice(model), benchmark, computing, cache is not None)
               for model in models]
    systems += [_System(name, file=path) for name, path in map(named_file, scores)]
    neutral = neutral or _neutral(systems)
    policies = ReadPolicies(neutral, after_error, drop_empty)
    sets = _sets(benchmark, data, policies, twin, seed)  # all of them first: bad input should not cost a fit
    if baselines_from:
        held_out = float(systems[0].info.get("held_out") or 0.0) if systems else 0.0
        source = SolutionFiles(tuple(map(os.fspath, baselines_from)), neutral=neutral, after_error=after_error,
                               drop_empty_steps=drop_empty)
        systems += _baselines(source, held_out, progress)
    if not systems:
        raise InputError("nothing to evaluate", field="model", hint="give --model, --scores or --baselines-from")
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise InputError("is the name of two systems", value=Counter(names).most_common(1)[0][0],
                         hint="give every model once, and name scores apart with --scores NAME=FILE")

    everything = [item for part in sets for item in part.items]
    given = {system.name: _by_item(everything, read_scores(system.file, everything, probabilities=benchmark.probabilities))
             for system in systems if system.file is not None}
    kept_scores = ScoreCache(cache) if cache is not None and any(system.model for system in systems) else None
    found: dict[str, Any] = {}
    for part in sets:
        chosen, encoded, counts = _choose(part, systems, overlong)
        benchmark.check(chosen, options.threshold)
        evaluations = {}
        for system in systems:
            read = encoded.get(system.name)
            texts = len(chosen) if read is None else sum(map(len, read))
            with progress.stage(f"{system.name} on {Path(part.name).name}", texts, "texts") as stage:
                values = _score(system, chosen, read, given.get(system.name), kept_scores, stage)
            _check_scale(system, values, benchmark, threshold)
            evaluations[system.name] = benchmark.evaluate(chosen, values, dataclasses.replace(options, chosen=system.chosen))
        found[part.name] = {
            "files": {file: rows_sha256(located(file)) for file in part.files}, "counts": counts,
            "labels": label_statistics([item.labeled for item in chosen]), "systems": evaluations,
            "paired": _paired(evaluations, options)}
    if kept_scores is not None:
        kept_scores.close()
    results = {**{field: getattr(benchmark, field) for field in ("title", "citation", "headline")}, "benchmark": benchmark.name,
               "threshold": str(options.threshold) if benchmark.thresholds else None, "resamples": options.resamples,
               "twin": None if twin is None else {"problems": twin, "seed": seed},
               "neutral": neutral, "after_error": after_error, "drop_empty": drop_empty, "overlong": overlong,
               "baselines_from": [os.fspath(path) for path in baselines_from],
               "models": {system.name: system.info for system in systems if system.model}, **computing.as_json(),
               "scores": {system.name: os.fspath(system.file) for system in systems if system.file}, "sets": found}
    _write(results, json_path, html, plot)
    print_results(results)
    return results


def parse_threshold(text: str | None) -> ThresholdProtocol:
    """``0.5``, ``split:NAME`` or ``oracle`` -> the protocol; None -> fixed at 0.5.

    Raises:
      InputError: anything else.
    """
    if text is None:
        return ThresholdProtocol()
    if text == "oracle":
        return ThresholdProtocol("oracle")
    if text.startswith("split:") and len(text) > len("split:"):
        return ThresholdProtocol("split", split=text.removeprefix("split:"))
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError("must be a number, split:NAME, or oracle", field="threshold", value=text)
    return ThresholdProtocol("fixed", value)


def _benchmark(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise InputError(f"no such benchmark; known: {', '.join(BENCHMARKS)}", value=name)
    return BENCHMARKS[name]


def _model(choice: ModelChoice, benchmark: Benchmark, computing: Computing, fingerprint: bool) -> _System:
    loaded = choice.load(computing)
    threshold = loaded.info.get("threshold")
    chosen = (threshold["chosen_on"], threshold["value"]) if threshold else None
    scorer = StepScorer(loaded.model, loaded.encoder, computing.batch_tokens, computing.mesh)
    system = _System(choice.name, chosen, scorer, model_fingerprint(loaded.model) if fingerprint else "", loaded.info)
    if benchmark.probabilities and not system.probabilities:
        raise InputError("its scores are no probabilities, which this benchmark needs", file=choice.directory)
    return system


def _neutral(systems: Sequence[_System]) -> NeutralPolicy:
    formats = [getattr(system.model.encoder, "format", None) for system in systems if system.model]
    policies = {step_format.neutral for step_format in formats if step_format is not None} or {"good"}
    if len(policies) > 1:
        raise InputError(f"the models were trained with different policies ({', '.join(sorted(policies))})",
                         field="neutral", hint="choose one with --neutral")
    return policies.pop()


def _sets(benchmark: Benchmark, data: Sequence[str | os.PathLike], policies: ReadPolicies, twin: int | None,
          seed: int) -> list[_Set]:
    if twin is not None:
        return [_Set(benchmark.name, (), benchmark.twin(seed, twin))]
    files = tuple(map(os.fspath, data))
    if len(set(files)) < len(files):
        raise InputError("is given twice", field="data", value=Counter(files).most_common(1)[0][0])
    if benchmark.per_file:
        sets = [_Set(file, (file,), benchmark.read([file], policies)) for file in files]
    else:
        sets = [_Set(benchmark.name, files, benchmark.read(files, policies))]
    for part in sets:
        if all(item.skip for item in part.items):
            reasons = Counter(item.skip for item in part.items)
            said = ", ".join("without a judged step" if reason == "unlabeled" else reason for reason in reasons)
            raise InputError(f"no usable solutions ({len(part.items)} rows, {sum(reasons.values())} of them {said})",
                             file=", ".join(part.files))
    return sets


def _baselines(source: SolutionFiles, held_out: float, progress: Progress) -> list[_System]:
    train, other = split_by_problem(load_solutions(source)[0], held_out)
    known = [item for item in other if item.labels.first_error is not None]
    systems = []
    with progress.stage("fit the baselines", 3, "baselines") as stage:
        for fit in (lambda items: fit_position_length(items, look_ahead=False), fit_position_length, fit_tfidf):
            baseline, chosen = fit(train), None
            if known:
                chosen = ("held-out problems of the files it was fitted on",
                          best_threshold(baseline(known), [item.labels.first_error for item in known]))
            systems.append(_System(baseline.name, chosen, baseline=baseline))
            stage.advance()
    return systems


def _by_item(items: Sequence[Item], scores: Sequence[np.ndarray | None]) -> dict[int, np.ndarray]:
    return {id(item): row for item, row in zip(items, scores) if row is not None}


def _choose(part: _Set, systems: Sequence[_System],
            overlong: OverlongPolicy) -> tuple[list[Item], dict[str, list[list[Row]]], dict[str, int]]:
    """The items that every system is measured on, what each model reads of them, and how many were left out why."""
    items = [item for item in part.items if not item.skip]
    places = [(item.file, item.row) for item in items]
    encoded, fits = {}, np.ones(len(items), bool)
    for system in systems:
        if system.model is not None:
            read = encoded[system.name] = encode_rows([item.labeled for item in items], system.model, places)
            longest = [max(((ids, ends) for ids, ends, *_ in rows), key=lambda row: len(row[0])) for rows in read]
            fits &= which_fit(longest, system.model.context, None, overlong, places)
    if not fits.any():
        raise InputError(f"none of its {len(items)} labelled solutions fits the models' context", file=", ".join(part.files))
    skipped = Counter(item.skip for item in part.items if item.skip)
    counts = {"rows": len(part.items), "unlabeled": skipped.pop("unlabeled", 0), **skipped,
              "empty_steps": sum(item.meta.get(EMPTY_STEPS, 0) for item in part.items), "overlong": int((~fits).sum())}
    return kept(items, fits), {name: kept(rows, fits) for name, rows in encoded.items()}, counts


def _score(system: _System, items: Sequence[Item], encoded: Sequence[Sequence[Row]] | None,
           given: dict[int, np.ndarray] | None, cache: ScoreCache | None, stage) -> list[np.ndarray]:
    """float64[number of steps] for each item."""
    if system.model is not None:
        scores = _score_model(system, encoded, cache, stage)
    else:
        scores = [given[id(item)] for item in items] if given is not None else system.baseline([item.labeled for item in items])
        stage.advance(len(items))
    scores = [np.asarray(row, np.float64) for row in scores]
    for item, row in zip(items, scores):
        if not np.isfinite(row).all():
            raise InputError(f"'{system.name}' gives a score that is no finite number", file=item.file, row=item.row,
                             field=f"scores[{int(np.argmin(np.isfinite(row)))}]", value=float(row[~np.isfinite(row)][0]))
    return scores


def _score_model(system: _System, encoded: Sequence[Sequence[Row]], cache: ScoreCache | None, stage) -> list[np.ndarray]:
    """Scores from the cache, and from the model what is not there; what was scored stays when the process is killed."""
    def on_batch(rows: int, tokens: int) -> None:
        stage.advance(rows, tokens=tokens)

    if cache is None:
        return system.model.score_rows(encoded, on_batch)
    keys = [score_key(system.fingerprint, rows) for rows in encoded]
    known = cache.get(set(keys))
    missing = {key: rows for key, rows in zip(keys, encoded) if key not in known}
    done = sum(len(rows) for rows in encoded) - sum(len(rows) for rows in missing.values())
    stage.advance(done, kept=str(done))
    for part in _chunks(missing):
        new = dict(zip(part, system.model.score_rows([missing[key] for key in part], on_batch)))
        cache.put({key: row for key, row in new.items() if np.isfinite(row).all()})
        known |= new
    return [known[key] for key in keys]


def _chunks(rows: dict[bytes, Sequence[Row]]) -> Iterator[list[bytes]]:
    """The keys, short solutions first so that few shapes are compiled, in parts of about `_CHUNK` tokens."""
    part, tokens = [], 0
    for key in sorted(rows, key=lambda key: max(len(ids) for ids, *_ in rows[key])):
        part.append(key)
        tokens += sum(len(ids) for ids, *_ in rows[key])
        if tokens >= _CHUNK:
            yield part
            part, tokens = [], 0
    if part:
        yield part


def _check_scale(system: _System, scores: Sequence[np.ndarray], benchmark: Benchmark, threshold: str | None) -> None:
    """A threshold of 0.5 says something about probabilities only: for other scores it must be meant."""
    if not benchmark.thresholds or threshold is not None:
        return
    if not system.probabilities and any(((row < 0) | (row > 1)).any() for row in scores):
        raise InputError("its scores are no probabilities, so that 0.5 is no threshold for them", file=system.name,
                         hint="give --threshold: a number, split:NAME or oracle")


def _paired(evaluations: dict[str, Evaluation], options: EvaluateOptions) -> list[dict[str, Any]]:
    """For each two systems and every number that both have: the paired test of the first minus the second."""
    tests = []
    for (first, one), (second, other) in itertools.combinations(evaluations.items(), 2):
        for number, statistic in one.compared.items():
            if number in other.compared:
                test = paired_statistics(statistic, other.compared[number], options.key, resamples=options.resamples)
                tests.append({"first": first, "second": second, "number": number.strip(), "difference": test.difference,
                              "p_value": test.p_value, "problems": test.groups})
    return tests


def _write(results: dict[str, Any], json_path, html, plot) -> None:
    """The files that were asked for, each all or nothing."""
    if plot is not None:
        path = Path(plot)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(_draw({short_name(name): part["systems"] for name, part in results["sets"].items()}))
        os.replace(temporary, path)
    if html is not None:
        with atomic_write(html) as out:
            out.write(render_benchmark(results))
    if json_path is not None:
        with atomic_write(json_path) as out:
            json.dump(to_json(_plain(results)), out, indent=2, ensure_ascii=False, allow_nan=False)
            out.write("\n")


def _plain(results: dict[str, Any]) -> dict[str, Any]:
    """Without curves, which are for the page; details of an evaluation stand beside its numbers."""
    def system(value: Evaluation) -> dict[str, Any]:
        numbers = {name.strip(): number for name, number in value.numbers.items()}
        details = to_json(value.details) if value.details is not None else {}
        return {"headline": value.headline, "numbers": numbers, "tables": value.tables, "settings": value.settings, **details}

    sets = {name: part | {"systems": {key: system(value) for key, value in part["systems"].items()}}
            for name, part in results["sets"].items()}
    return results | {"sets": sets}


def _draw(evaluated: dict[str, dict[str, Evaluation]]) -> bytes:
    """The first two numbers with intervals, of all sets and systems."""
    names = dict.fromkeys(name for systems in evaluated.values() for value in systems.values()
                          for name, number in value.numbers.items() if isinstance(number, Interval))
    measures = {}
    for name in list(names)[:2]:
        measures[name.strip()] = {part: {key: value.numbers[name] for key, value in systems.items() if name in value.numbers}
                                  for part, systems in evaluated.items()}
    return draw_benchmark(measures, chance={name: 0.5 for name in measures if name.startswith("AUROC")})
