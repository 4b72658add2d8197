"""What a hyperparameter means and which values are refused; metrics by hand."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprm.errors import InputError
from jaxprm.objectives import (
    STEP_OBJECTIVES,
    binary_cross_entropy,
    buffer_cross_entropy,
    cross_entropy,
    ensemble_anchor,
    focal,
    forward_corrected_cross_entropy,
    generalized_cross_entropy,
    implicit_dpo,
    implicit_kto,
    implicit_step_rewards,
    listwise_ranking,
    mean_squared_error,
    pairwise_ranking,
    quantile,
    self_supervised,
)

X = jnp.array([[[2.0], [-1.0], [0.3], [-4.0]]])
Y = jnp.array([[1.0, 1.0, 0.0, 0.0]])
M = jnp.ones((1, 4), bool)

REFUSED = [
    ("binary_cross_entropy", "label_smoothing", 1.0, r"must be in \[0, 1\)"),
    ("binary_cross_entropy", "label_smoothing", float("nan"), "must be a finite number"),
    ("binary_cross_entropy", "class_weights", (1.0, 2.0, 3.0), "one weight for each of the 2 classes"),
    ("binary_cross_entropy", "class_weights", (-1.0, 2.0), "must be at least 0"),
    ("binary_cross_entropy", "class_weights", (0.0, 0.0), "must not all be 0"),
    ("binary_cross_entropy", "class_weights", "ab", "one weight for each of the 2 classes"),
    ("generalized_cross_entropy", "q", 0, r"must be in \(0, 1\]"),
    ("focal", "gamma", -1, "must be at least 0"),
    ("focal", "gamma", True, "must be a finite number"),
    ("focal", "gamma", np.float32(-1), "must be at least 0"),
    ("symmetric_cross_entropy", "alpha", -0.5, "must be at least 0"),
    ("symmetric_cross_entropy", "log_zero", 0.0, "must be in"),
    ("forward_corrected_cross_entropy", "false_right", 0.95, "must add up to less than 1"),
    ("forward_corrected_cross_entropy", "false_wrong", 1.0, r"must be in \[0, 1\)"),
    ("mean_squared_error", "link", "tanh", "must be one of sigmoid, identity"),
    ("quantile", "levels", (0.5, 0.1), "one level for each of the 1 outputs"),
    ("quantile", "levels", 0.5, "one level for each of the 1 outputs"),
    ("quantile", "levels", (1.0,), r"must be in \(0, 1\)"),
    ("ensemble_anchor", "strength", -1.0, "must be at least 0"),
    ("ensemble_anchor", "distance", float("inf"), "must be a finite number"),
    ("self_supervised", "positive_weight", 0.0, "must be greater than 0"),
    ("self_supervised", "class_weights", 1.0, "one weight for each of the 2 classes"),
    ("pqm_ranking", "zeta", "4", "must be a finite number"),
    ("pqm_ranking", "variant", "rank", "must be one of published, theory, first_error"),
    ("pairwise_ranking", "gap", -0.1, "must be at least 0"),
    ("margin_ranking", "margin", -1.0, "must be at least 0"),
    ("preference_pairs", "per_side", 0, "must be a whole number of at least 1"),
    ("preference_pairs", "per_side", 1.5, "must be a whole number of at least 1"),
    ("preference_pairs", "gap", 2.0, r"must be in \[0, 1\]"),
    ("preference_pairs", "distill_scale", 0.0, "must be greater than 0"),
    ("implicit_cross_entropy", "beta", 0.0, "must be greater than 0"),
    ("implicit_dpo", "label_smoothing", 0.6, r"must be in \[0, 0.5\]"),
    ("implicit_dpo", "variant", "vanilla", "must be one of pairs, detached"),
    ("implicit_kto", "variant", "pairs", "must be one of vanilla, uneven"),
    ("implicit_kto", "reference_point", 1.0, "is read by the uneven variant, and only by it"),
    ("implicit_kto", "desirable_weight", -1.0, "must be at least 0"),
    ("implicit_nca", "temperature", 0, "must be greater than 0"),
]


@pytest.mark.parametrize("name, field, value, message", REFUSED)
def test_values_out_of_range_are_refused_by_name(name, field, value, message, without_type_checks):
    with pytest.raises(InputError, match=f"^field '{field}' = .*{message}"):
        STEP_OBJECTIVES[name](X, Y, M, **{field: value})


def test_refused_because_of_the_outputs(without_type_checks):
    with pytest.raises(InputError, match="field 'class_weights' = .*each of the 3 classes"):
        cross_entropy(jnp.zeros((1, 4, 3)), Y, M, class_weights=(1.0, 2.0))
    with pytest.raises(InputError, match="field 'levels' = .*must increase"):
        quantile(jnp.zeros((1, 4, 2)), Y, M, levels=(0.5, 0.5))
    with pytest.raises(InputError, match="field 'beta' = 1.5: must be in"):
        buffer_cross_entropy(jnp.zeros((1, 4, 3)), Y, M, beta=1.5)
    with pytest.raises(InputError, match="field 'variant' = 'uneven'|field 'reference_point' = None"):
        implicit_kto(X, Y, M, variant="uneven")
    with pytest.raises(InputError, match="field 'kind' = 'sum': must be one of single, accumulative"):
        implicit_step_rewards(X[..., 0], M, kind="sum")


def test_three_classes_by_hand():
    """Labels 0, 1/2 and 1 are the classes wrong, neutral and right; between them a label is shared by two classes."""
    x = jnp.log(jnp.array([[[0.2, 0.3, 0.5]] * 4]))
    loss = cross_entropy(x, jnp.array([[0.0, 0.5, 1.0, 0.75]]), M)
    np.testing.assert_allclose(loss.total, -np.log(0.2) - 1.5 * np.log(0.3) - 1.5 * np.log(0.5), rtol=1e-6)
    np.testing.assert_allclose(loss.metric_means()["accuracy"], 1 / 4)  # of two equal targets the first class counts


def test_class_weights_are_the_weighted_mean_of_torch():
    """Hard labels: sum of w_y * nll over sum of w_y."""
    nll = np.logaddexp(0, -np.array([2.0, -1.0, -0.3, 4.0]))
    weights = np.array([0.5, 0.5, 3.0, 3.0])
    loss = binary_cross_entropy(X, Y, M, class_weights=(3.0, 0.5))
    np.testing.assert_allclose(loss.mean(), (weights * nll).sum() / weights.sum(), rtol=1e-6)
    two = jnp.concatenate([jnp.zeros_like(X), X], -1)
    np.testing.assert_allclose(cross_entropy(two, Y, M, class_weights=(3.0, 0.5)).mean(), loss.mean(), rtol=1e-6)


def test_robust_losses_have_cross_entropy_as_their_limit():
    plain = binary_cross_entropy(X, Y, M).total
    np.testing.assert_allclose(focal(X, Y, M, gamma=0.0).total, plain, rtol=1e-6)
    np.testing.assert_allclose(generalized_cross_entropy(X, Y, M, q=1e-3).total, plain, rtol=5e-3)
    noiseless = forward_corrected_cross_entropy(X, Y, M, false_right=0.0, false_wrong=0.0)
    np.testing.assert_allclose(noiseless.total, plain, rtol=1e-6)
    expected = optax.losses.sigmoid_focal_loss(X[..., 0], Y, gamma=2.0).sum()
    np.testing.assert_allclose(focal(X, Y, M).total, expected, rtol=1e-5)


def test_forward_correction_finds_the_truth_behind_noisy_labels():
    """Of steps that are right with probability .8, labelled with known noise: the optimum of the loss is .8, not the share of
    labels."""
    share = 0.8 * 0.7 + 0.2 * 0.1
    z = jnp.linspace(-4, 4, 1601)
    each = [float(forward_corrected_cross_entropy(z[i].reshape(1, 1, 1), jnp.full((1, 1), share), jnp.ones((1, 1), bool),
                                                  false_right=0.1, false_wrong=0.3).total)
            for i in (np.searchsorted(z, np.log(4)) + np.array([-150, 0, 150]))]
    assert each[1] < each[0] and each[1] < each[2]


def test_metrics_by_hand():
    value = mean_squared_error(X, Y, M, link="identity").metric_means()
    np.testing.assert_allclose(value["absolute_error"], (1 + 2 + 0.3 + 4) / 4, rtol=1e-6)
    levels = quantile(jnp.array([[[-2.0, 0.0, 2.0]]]), jnp.array([[0.9]]), jnp.ones((1, 1), bool)).metric_means()
    assert levels["coverage"] == 0 and abs(levels["width"] - 2 * (1 / (1 + np.exp(-2)) - 0.5)) < 1e-6
    members = ensemble_anchor(jnp.array([[[3.0, -1.0]]]), jnp.ones((1, 1)), jnp.ones((1, 1), bool)).metric_means()
    p = 1 / (1 + np.exp(-np.array([3.0, -1.0])))
    np.testing.assert_allclose(members["disagreement"], p.std(), rtol=1e-6)
    assert members["accuracy"] == 1
    pairs = pairwise_ranking(X, Y, M).metric_means()
    np.testing.assert_allclose([pairs["separated"], pairs["margin"]], [3 / 4, (1.7 + 6 - 1.3 + 3) / 4], rtol=1e-6)
    assert listwise_ranking(X, Y, M).metric_means()["top"] == 1
    dpo = implicit_dpo(X[:, :2], jnp.array([[1.0, 0.0]]), M[:, :2], beta=0.5, segments=jnp.array([[1, 2]])).metric_means()
    np.testing.assert_allclose([dpo["accuracy"], dpo["margin"]], [1, 1.5])


def test_a_response_is_labeled_by_its_last_labeled_step():
    """The step behind the mask takes no part, neither in the sum nor as the outcome."""
    mask = jnp.array([[True, True, True, False]])
    loss = STEP_OBJECTIVES["implicit_cross_entropy"](X, Y, mask, beta=1.0)
    np.testing.assert_allclose(loss.total, np.logaddexp(0, 2.0 - 1.0 + 0.3), rtol=1e-6)
    assert loss.weight == 1 and loss.metric_means()["accuracy"] == 0


def test_a_new_head_starts_to_learn_from_itself():
    """Where all logits are 0, as in a head that starts at zero, every step counts."""
    loss = self_supervised(jnp.zeros_like(X), Y, M)
    np.testing.assert_allclose([loss.mean(), loss.weight], [np.log(2), 2 * 1.5 / 2 + 2 / 2], rtol=1e-6)
    assert abs(self_supervised(X, Y, M).weight - (1.5 / 2 + 1 / 2)) < 1e-6  # the first and the last step agree
