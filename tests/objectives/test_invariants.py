"""What holds for every step objective: one table of cases, and each case is compiled once, for one shape of batch."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.models import make_mesh
from jaxprm.models.sharding import constrain
from jaxprm.objectives import OUTPUTS, STEP_OBJECTIVES, Loss, accepts_outputs
from jaxprm.testing.objective_oracles import ORACLES

ROWS, STEPS = 8, 8


@dataclasses.dataclass(frozen=True)
class Case:
    """An objective with K outputs and hyperparameters.

    grouped: `groups` are given. adds_up: the loss of a batch is the sum of those of its parts. one_row: without groups a row
    is one problem, so that rows cannot be packed.
    """

    name: str
    outputs: int
    hyperparameters: tuple = ()
    grouped: bool = False
    adds_up: bool = True
    one_row: bool = False

    def __str__(self):
        settings = [f"{name}={value}" for name, value in self.hyperparameters] + ["groups"] * self.grouped
        return "-".join([self.name, str(self.outputs), *settings]).replace(" ", "")

    @property
    def settings(self) -> dict:
        return dict(self.hyperparameters)


def case(name, outputs=1, *, grouped=False, adds_up=True, one_row=False, **hyperparameters):
    return Case(name, outputs, tuple(hyperparameters.items()), grouped, adds_up, one_row)


CASES = [
    case("binary_cross_entropy"),
    case("binary_cross_entropy", class_weights=(2.0, 0.5), label_smoothing=0.1),
    case("cross_entropy", 2),
    case("cross_entropy", 2, class_weights=(0.3, 1.5), label_smoothing=0.2),
    case("cross_entropy", 3),
    case("cross_entropy", 3, class_weights=(1.0, 0.2, 2.0), label_smoothing=0.1),
    case("generalized_cross_entropy", 1),
    case("generalized_cross_entropy", 2, q=1.0),
    case("focal", 1),
    case("focal", 2, gamma=0.5, class_weights=(0.75, 0.25)),
    case("symmetric_cross_entropy", 1),
    case("symmetric_cross_entropy", 2, alpha=1.0, beta=0.5, log_zero=-6.0),
    case("forward_corrected_cross_entropy", 1, false_right=0.3, false_wrong=0.05),
    case("forward_corrected_cross_entropy", 2, false_right=0.0, false_wrong=0.2),
    case("mean_squared_error"),
    case("mean_squared_error", link="identity"),
    case("quantile", 3),
    case("quantile", 1, levels=(0.3,)),
    case("ensemble_anchor", 4, distance=1.5, strength=0.2),
    case("buffer_cross_entropy", 3),
    case("buffer_cross_entropy", 3, beta=0.0, last_weight=3.0),
    case("self_supervised", adds_up=False),
    case("self_supervised", class_weights=(0.7, 1.2)),
    case("pqm_ranking"),
    case("pqm_ranking", variant="theory", zeta=2.0),
    case("pqm_ranking", variant="first_error", zeta=0.0),
    case("pairwise_ranking"),
    case("pairwise_ranking", grouped=True, gap=0.1, margin=0.5),
    case("margin_ranking"),
    case("margin_ranking", grouped=True, gap=0.05, margin=2.0),
    case("preference_pairs"),
    case("preference_pairs", grouped=True, per_side=1, gap=0.4),
    case("preference_pairs", grouped=True, distill_scale=4.0),
    case("listwise_ranking"),
    case("listwise_ranking", grouped=True),
    case("implicit_cross_entropy"),
    case("implicit_dpo", one_row=True, beta=0.2),
    case("implicit_dpo", grouped=True, label_smoothing=0.1),
    case("implicit_dpo", grouped=True, variant="detached", beta=0.3, label_smoothing=0.05),
    case("implicit_kto", adds_up=False, beta=0.1, desirable_weight=1.5),
    case("implicit_kto", variant="uneven", reference_point=2.0, undesirable_weight=0.5),
    case("implicit_nca", one_row=True, beta=0.2),
    case("implicit_nca", grouped=True, temperature=0.5),
]
every = pytest.mark.parametrize("case", CASES, ids=str)


@dataclasses.dataclass(frozen=True)
class Batch:
    x: np.ndarray
    y: np.ndarray
    m: np.ndarray
    w: np.ndarray
    segments: np.ndarray
    groups: np.ndarray

    def arguments(self, case):
        return self.x, self.y, self.m, self.w, self.segments, self.groups if case.grouped else None

    def change(self, **arrays):
        return dataclasses.replace(self, **arrays)

    def map(self, function):
        return Batch(*(function(getattr(self, field.name)) for field in dataclasses.fields(self)))

    def only(self, chosen):
        """The same batch with labels only where chosen."""
        return self.change(m=self.m & chosen)


def empty(outputs):
    zeros = functools.partial(np.zeros, (ROWS, STEPS))
    return Batch(np.zeros((ROWS, STEPS, outputs)), zeros(), zeros(bool), np.ones((ROWS, STEPS)), zeros(int), zeros(int))


def random_batch(seed, outputs, scale=2.0, weighted=True):
    """Two solutions per row, hard labels in half of the rows. A row is all right, one all wrong, one unlabelled, one of one
    step, and one has a right and a wrong solution. A group is the first, or the second, half of the rows, so that no group is
    cut by cutting the batch there."""
    rng = np.random.default_rng(seed)
    y = rng.random((ROWS, STEPS)).round(2)
    y[::2] = y[::2].round()
    m = rng.random((ROWS, STEPS)) < 0.8
    y[0], y[3], m[4], m[6] = 1, 0, False, False
    m[6, 5] = True
    segments = np.where(np.arange(STEPS) < rng.integers(2, STEPS, (ROWS, 1)), 1, 2)
    segments[1] = np.where(np.arange(STEPS) < 4, 1, 2)
    groups = 10 * (np.arange(ROWS)[:, None] >= ROWS // 2) + segments
    w = rng.choice([0.0, 0.5, 1.0, 1.7], (ROWS, STEPS)) if weighted else np.ones((ROWS, STEPS))
    y[1], m[1], w[1] = np.where(segments[1] == 1, 0.9, 0.1), True, np.maximum(w[1], 0.5)
    return Batch(scale * rng.standard_normal((ROWS, STEPS, outputs)), y, m, w, segments, groups)


@functools.cache
def compiled(case):
    objective = STEP_OBJECTIVES[case.name]

    def total(x, y, m, w, segments, groups):
        more = {"groups": groups} if case.grouped else {}
        loss = objective(x, y, m, weights=w, segments=segments, **more, **case.settings)
        return loss.total, loss

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def run(case, batch):
    """(loss, gradient of its total)."""
    x, y, m, w, segments, groups = batch.arguments(case)
    (_, loss), gradient = compiled(case)(jnp.float32(x), jnp.float32(y), jnp.asarray(m), jnp.float32(w),
                                         jnp.int32(segments), None if groups is None else jnp.int32(groups))
    return loss, np.asarray(gradient)


def oracle(case, batch):
    arguments = [np.float32(a).astype(np.float64) if np.asarray(a).dtype == np.float64 else a for a in batch.arguments(case)]
    return ORACLES[case.name](*arguments, **case.settings)


def assert_same(one, other, rtol=2e-6):
    np.testing.assert_allclose(one.total, other.total, rtol=rtol, atol=1e-5)
    np.testing.assert_allclose(one.weight, other.weight, rtol=rtol)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), one.metrics, other.metrics)


def test_every_objective_has_cases_and_an_oracle():
    assert {case.name for case in CASES} == set(STEP_OBJECTIVES) == set(OUTPUTS) == set(ORACLES)
    for case in CASES:
        assert accepts_outputs(case.name, case.outputs)
        assert case.grouped <= ("groups" in inspect.signature(STEP_OBJECTIVES[case.name]).parameters)
    assert not accepts_outputs("binary_cross_entropy", 2) and not accepts_outputs("quantile", 0)
    assert accepts_outputs("cross_entropy", 3) and not accepts_outputs("cross_entropy", 1)


@every
def test_equals_the_oracle(case):
    for seed in range(3):
        batch = random_batch(seed, case.outputs, weighted=seed > 0)
        loss, _ = run(case, batch)
        total, weight = oracle(case, batch)
        np.testing.assert_allclose(loss.total, total, rtol=5e-6)
        np.testing.assert_allclose(loss.weight, weight, rtol=2e-6)
        assert weight > 0 and loss.total.dtype == loss.weight.dtype == jnp.float32
        assert np.isfinite(jax.tree.leaves(loss.metrics)).all()


@every
def test_gradient_equals_finite_differences_of_the_oracle(case):
    batch = random_batch(7, case.outputs)
    batch = batch.only(np.arange(ROWS)[:, None] < 5)
    batch = batch.change(x=np.float32(batch.x).astype(np.float64))
    _, gradient = run(case, batch)
    differences = np.zeros_like(batch.x)
    settings = case.settings | ({"detached_at": batch.x} if case.settings.get("variant") == "detached" else {})
    for row, step in np.argwhere(batch.m):
        for k in range(case.outputs):
            at = [batch.x.copy(), batch.x.copy()]
            at[0][row, step, k] += 1e-5
            at[1][row, step, k] -= 1e-5
            high, low = (ORACLES[case.name](*batch.change(x=x).arguments(case), **settings)[0] for x in at)
            differences[row, step, k] = (high - low) / 2e-5
    assert np.abs(differences).max() > 1e-4
    np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=2e-6)


@every
def test_extreme_logits_stay_finite(case):
    batch = random_batch(3, case.outputs)
    batch = batch.change(x=1e4 * np.sign(batch.x))
    loss, gradient = run(case, batch)
    assert np.isfinite(gradient).all() and np.isfinite(jax.tree.leaves(loss)).all()
    total, weight = oracle(case, batch)
    np.testing.assert_allclose(loss.total, total, rtol=1e-5, atol=0.1)
    np.testing.assert_allclose(loss.weight, weight, rtol=2e-6)


@every
def test_rows_that_are_all_right_all_wrong_of_one_step_or_unlabeled(case):
    """Each row of the batch alone: a row in which nothing can be compared has the loss 0, weight 0 and gradient 0."""
    batch = random_batch(0, case.outputs)
    kinds = set()
    for row in (0, 3, 4, 6):
        alone = batch.only(np.arange(ROWS)[:, None] == row)
        loss, gradient = run(case, alone)
        total, weight = oracle(case, alone)
        np.testing.assert_allclose([loss.total, loss.weight], [total, weight], rtol=1e-5)
        assert np.isfinite(gradient).all() and np.isfinite(loss.mean())
        if weight == 0:
            assert loss.total == 0 and loss.mean() == 0 and (gradient == 0).all()
        kinds.add(weight == 0)
    assert True in kinds


@every
def test_nothing_labeled_gives_zero_and_zero_gradient(case):
    batch = random_batch(1, case.outputs)
    for nothing in (batch.only(False), batch.change(w=np.zeros_like(batch.w)), empty(case.outputs)):
        loss, gradient = run(case, nothing)
        assert loss.total == 0 and loss.weight == 0 and loss.mean() == 0 and (gradient == 0).all()
        assert all(value == 0 for value in loss.metric_means().values())


@every
def test_masked_steps_and_padding_are_never_read(case):
    """The same solutions at other places of the batch, with rubbish around them."""
    batch = random_batch(2, case.outputs)
    small = np.zeros((ROWS, STEPS), bool)
    small[:6, :6] = True
    batch = batch.only(small)
    clean, gradient = run(case, batch)
    assert clean.weight > 0
    moved = batch.map(lambda a: np.roll(a, (2, 2), (0, 1)))
    unread = ~moved.m
    moved = moved.change(x=np.where(unread[..., None], np.nan, moved.x), y=np.where(unread, -100, moved.y),
                         w=np.where(unread, np.nan, moved.w))
    dirty, other = run(case, moved)
    assert_same(dirty, clean)
    np.testing.assert_allclose(np.roll(other, (-2, -2), (0, 1)), gradient, rtol=1e-5, atol=1e-7)
    assert (other[unread] == 0).all()


@pytest.mark.parametrize("case", [case for case in CASES if not case.one_row], ids=str)
def test_packed_rows_equal_separate_rows(case):
    rng = np.random.default_rng(5)
    apart = random_batch(5, case.outputs).map(np.array)
    apart.segments[:] = 1
    apart.m[:, 4:] = False
    apart.groups[:] = rng.integers(0, 3, (ROWS, 1))
    packed = empty(case.outputs).map(np.array)
    for row in range(ROWS):
        for field in dataclasses.fields(Batch):
            target = getattr(packed, field.name)
            target[row // 2, 4 * (row % 2) : 4 * (row % 2) + 4] = getattr(apart, field.name)[row, :4]
        packed.segments[row // 2, 4 * (row % 2) : 4 * (row % 2) + 4] = 1 + row % 2
    one, gradient = run(case, apart)
    other, packed_gradient = run(case, packed)
    assert_same(other, one)
    np.testing.assert_allclose(packed_gradient[: ROWS // 2].reshape(ROWS, 4, -1), gradient[:, :4], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", [case for case in CASES if case.adds_up], ids=str)
def test_micro_batches_with_unequal_label_counts_add_up_to_the_full_batch(case):
    batch = random_batch(4, case.outputs)
    full, gradient = run(case, batch)
    rows = np.arange(ROWS)[:, None]
    cuts = (rows < 4, rows >= 4) if case.grouped else (rows < 1, (rows >= 1) & (rows < 6), rows >= 6)
    parts = [run(case, batch.only(cut)) for cut in cuts]
    assert len({float(loss.weight) for loss, _ in parts}) > 1
    total = functools.reduce(Loss.__add__, [loss for loss, _ in parts], Loss.zero(full.metrics))
    assert_same(total, full)
    np.testing.assert_allclose(total.mean(), full.mean(), rtol=2e-6)
    np.testing.assert_allclose(sum(part for _, part in parts), gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", [case for case in CASES if not case.adds_up], ids=str)
def test_losses_with_a_statistic_of_the_batch_do_not_add_up(case):
    batch = random_batch(4, case.outputs)
    upper = np.arange(ROWS)[:, None] < 4
    parts = run(case, batch.only(upper))[0] + run(case, batch.only(~upper))[0]
    assert abs(float(parts.mean() / run(case, batch)[0].mean()) - 1) > 1e-4


@every
def test_weights_scale_a_loss_and_zero_weights_are_no_labels(case):
    batch = random_batch(6, case.outputs, weighted=False)
    loss, gradient = run(case, batch)
    if case.adds_up:  # counts with a prior are not proportional
        double, twice = run(case, batch.change(w=2 * batch.w))
        np.testing.assert_allclose([double.total, double.weight], [2 * loss.total, 2 * loss.weight], rtol=2e-6)
        np.testing.assert_allclose(twice, 2 * gradient, rtol=1e-5, atol=1e-7)
    dropped = np.random.default_rng(0).random((ROWS, STEPS)) < 0.3
    zeroed, _ = run(case, batch.change(w=np.where(dropped, 0.0, 1.0)))
    left, _ = run(case, batch.only(~dropped))
    assert_same(zeroed, left)


@pytest.mark.parametrize("name", sorted(STEP_OBJECTIVES))
def test_without_weights_every_step_weighs_one_and_low_precision_is_summed_in_float32(name):
    case = next(case for case in CASES if case.name == name)
    batch = random_batch(8, case.outputs, weighted=False)
    low = jnp.asarray(batch.x, jnp.bfloat16)
    loss, _ = run(case, batch.change(x=np.asarray(low, np.float32)))
    objective = jax.jit(functools.partial(STEP_OBJECTIVES[name], **case.settings))
    plain = objective(low, jnp.float32(batch.y), jnp.asarray(batch.m), segments=jnp.int32(batch.segments))
    assert_same(plain, loss)
    assert plain.total.dtype == plain.weight.dtype == jnp.float32


@pytest.mark.parametrize("name", [name for name, outputs in OUTPUTS.items() if outputs is not None])
def test_wrong_number_of_outputs_raises(name):
    wanted = {1: "1", 3: "3", (1, 2): "1 or 2", (2, 3): "2 or 3"}[OUTPUTS[name]]
    with pytest.raises(ValueError, match=rf"{name} takes outputs \[B, S, {wanted}\], not \[1, 2, 4\]"):
        STEP_OBJECTIVES[name](jnp.zeros((1, 2, 4)), jnp.zeros((1, 2)), jnp.ones((1, 2), bool))


@pytest.mark.parametrize("case", [case for case in CASES if case.grouped or case.name in ("listwise_ranking", "implicit_kto")],
                         ids=str)
def test_on_a_mesh(case):
    """Rows lie on eight devices; groups are compared across them."""
    batch = random_batch(9, case.outputs)
    expected, gradient = run(case, batch)
    x, y, m, w, segments, groups = batch.arguments(case)
    objective = STEP_OBJECTIVES[case.name]

    @jax.jit
    def total(x, y, m, w, segments, groups):
        x, y, m, w, segments, groups = (constrain(a, "batch", *[None] * (a.ndim - 1)) for a in (x, y, m, w, segments, groups))
        more = {"groups": groups} if case.grouped else {}
        return jax.value_and_grad(lambda x: objective(x, y, m, weights=w, segments=segments, **more, **case.settings).total)(x)

    with jax.set_mesh(make_mesh(4, 2, 1)):
        value, found = total(jnp.float32(x), jnp.float32(y), jnp.asarray(m), jnp.float32(w), jnp.int32(segments),
                             jnp.int32(batch.groups))
        np.testing.assert_allclose(value, expected.total, rtol=2e-6)
        np.testing.assert_allclose(np.asarray(found), gradient, rtol=1e-5, atol=1e-7)
