"""Objectives against numbers that the reference implementations returned.

Where a reference is wrong, the test ports the defect, shows that the port returns the reference's number, and that ours is the
port without the defect.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.objectives import STEP_OBJECTIVES, implicit_step_rewards


@pytest.fixture(scope="module")
def golden(shared):
    """(file, kind) -> the cases of that kind."""

    @functools.cache
    def read(file):
        return json.loads((shared / f"fixtures/golden/{file}.json").read_text())["cases"]

    def of_kind(file, kind, at_least=1):
        found = [case for case in read(file) if case["inputs"].get("kind") == kind]
        assert len(found) >= at_least
        return found

    return of_kind


@functools.cache
def compiled(name, **static):
    def total(x, y, m, more):
        loss = STEP_OBJECTIVES[name](x, y, m, **more, **static)
        return loss.mean(), loss

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def loss_and_gradient(name, outputs, labels, mask, room=None, static=(), **more):
    """(loss, gradient of its mean [rows, steps, K]); padded to `room` = (rows, steps), so that cases share a compilation."""
    outputs = np.asarray(outputs, np.float64)
    rows, steps, count = outputs.shape
    shape = room or (rows, steps)
    x, y, m = np.zeros((*shape, count)), np.zeros(shape), np.zeros(shape, bool)
    x[:rows, :steps], y[:rows, :steps], m[:rows, :steps] = outputs, labels, mask
    more = {key: jnp.asarray(value, jnp.float32) for key, value in more.items()}
    for key in ("segments", "groups"):
        if key in more:
            more[key] = more[key].astype(jnp.int32)
    (_, loss), gradient = compiled(name, **dict(static))(jnp.float32(x), jnp.float32(y), jnp.asarray(m), more)
    return loss, np.asarray(gradient)[:rows, :steps]


def ratios(inputs, side):
    return np.array(inputs[f"policy_{side}"]) - np.array(inputs[f"reference_{side}"])


def responses(values):
    """Values of responses as outputs of solutions of one step."""
    return np.asarray(values, np.float64)[:, None, None]


def pqm_with_defects(q, labels, has_neg, zeta, theory, double, divide, epsilon=1e-5):
    """`theory_ranking_loss` and `ablate-rank` of the authors' code on one row."""
    q, labels = np.array(q, np.float64), np.array(labels)
    count, wrong = int((labels != -100).sum()), np.flatnonzero(labels == 0)
    right = np.flatnonzero(labels == 1)
    total = np.exp(q[wrong] + zeta).sum() if theory else np.exp(q[len(right)]) * has_neg if len(right) < len(q) else 0.0
    first = has_neg * np.log(1 + total + epsilon)
    for t in right:
        own = np.exp(q[t]) * (2 if double and t >= 1 else 1)
        first += np.log(own + 1 + np.exp(q[right[right < t]]).sum() + total + epsilon) - q[t]
    second = 0.0
    for t in wrong:
        if divide == "reference" and t == len(q) - 1:
            continue
        second += np.log(np.exp(q[wrong[wrong >= t]]).sum() + epsilon) - q[t]
    if not theory:
        return first / (has_neg + len(right))
    return first / (count + (divide == "reference")) + second / count


def pqm_cases(shared):
    cases = json.loads((shared / "fixtures/golden/pqm_ranking_loss.json").read_text())["cases"]
    for case in cases:
        inputs = case["inputs"]
        for row, labels in enumerate(np.array(inputs["labels"])):
            if (labels != -100).any():
                yield case, inputs["rewards"][row], labels, inputs["has_neg"][row], inputs["zeta"], row


def test_pqm_theory_is_the_authors_without_its_defects(shared):
    """The authors' code counts exp(Q_t) of a right step twice from the second step of a row on, and divides the first part of
    the loss by one more than the number of steps; it adds 1e-5 to denominators."""
    checked = differ = 0
    for case, q, labels, has_neg, zeta, row in pqm_cases(shared):
        port = pqm_with_defects(q, labels, has_neg, zeta, True, double=True, divide="reference")
        np.testing.assert_allclose(port, case["outputs"]["theory_rank"]["per_row"][row], rtol=2e-6, atol=1e-6)
        right = pqm_with_defects(q, labels, has_neg, zeta, True, double=False, divide="paper", epsilon=0)
        loss, _ = loss_and_gradient("pqm_ranking", [[[value] for value in q]], labels == 1, labels != -100, (1, 10),
                                    (("variant", "theory"),), zeta=zeta)
        np.testing.assert_allclose(loss.mean(), right, rtol=1e-5, atol=1e-6)
        checked += 1
        differ += abs(port - right) > 1e-3
    assert checked > 30 and differ > 20


def test_pqm_first_error_is_the_authors_where_labels_are_a_prefix(shared):
    """The authors' code takes the step at the index that is the number of right steps: the first error if and only if no right
    step follows a wrong one. It has no margin."""
    prefix = other = 0
    for case, q, labels, has_neg, _, row in pqm_cases(shared):
        expected = case["outputs"]["ablate_rank"]["per_row"][row]
        port = pqm_with_defects(q, labels, has_neg, 0, False, double=False, divide="paper")
        np.testing.assert_allclose(port, expected, rtol=2e-6, atol=1e-6)
        loss, _ = loss_and_gradient("pqm_ranking", [[[value] for value in q]], labels == 1, labels != -100, (1, 10),
                                    (("variant", "first_error"),), zeta=0)
        known = labels[labels != -100]
        if (np.diff(known) <= 0).all():
            exact = pqm_with_defects(q, labels, has_neg, 0, False, double=False, divide="paper", epsilon=0)
            np.testing.assert_allclose(loss.mean(), exact, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(loss.mean(), expected, rtol=1e-4, atol=1e-4)  # the 1e-5 in denominators is theirs
            prefix += 1
        elif labels[(labels == 1).sum()] != 0 or (labels == 1).sum() != np.flatnonzero(labels == 0)[0]:
            other += abs(float(loss.mean()) - expected) > 1e-3
    assert prefix > 30 and other >= 1


def test_implicit_cross_entropy(golden):
    for case in golden("implicit_prm", "ce", 5):
        inputs = case["inputs"]
        values = np.array(inputs["policy_logps"]) - np.array(inputs["reference_logps"])
        labels = np.array(inputs["labels"])[:, None]
        loss, gradient = loss_and_gradient("implicit_cross_entropy", responses(values), labels, True, (8, 1),
                                           beta=inputs["beta"])
        np.testing.assert_allclose(loss.mean(), case["outputs"]["loss"], rtol=1e-5)
        np.testing.assert_allclose(gradient[:, 0, 0], case["outputs"]["grad_policy"], rtol=1e-4, atol=1e-8)


def test_implicit_cross_entropy_of_prime(golden):
    """PRIME sums the tokens of a response; its labels may be fractions (code tasks)."""
    for case in golden("prime", "ce_loss", 4):
        inputs = case["inputs"]
        mask = np.array(inputs["response_mask"], bool)
        labels = np.broadcast_to(np.array(inputs["acc"])[:, None], mask.shape)
        loss, gradient = loss_and_gradient("implicit_cross_entropy", np.array(inputs["q"])[..., None], labels, mask,
                                           beta=inputs["beta"])
        np.testing.assert_allclose(loss.mean(), case["outputs"]["loss"], rtol=1e-5)
        np.testing.assert_allclose(gradient[..., 0], case["outputs"]["grad_q"], rtol=1e-4, atol=1e-7)


def pair_rows(right, wrong):
    """One row per pair, of two steps: (outputs, labels)."""
    outputs = np.stack([right, wrong], 1)[..., None]
    return outputs, np.array([[1, 0]] * len(outputs))


def trl_ratios(inputs):
    return tuple(np.array(inputs[f"{side}_logps"]) - np.array(inputs[f"ref_{side}_logps"]) for side in ("chosen", "rejected"))


def dpo_cases(golden):
    """(policy - reference of the right, of the wrong responses, beta, smoothing, mean loss, gradient of the right)."""
    for case in golden("implicit_prm", "dpo", 3):  # this reference ignores its label smoothing
        inputs, outputs = case["inputs"], case["outputs"]
        yield (ratios(inputs, "chosen"), ratios(inputs, "rejected"), inputs["beta"], 0, outputs["loss"],
               outputs["grad_policy_chosen"])
    for case in golden("openrlhf_losses", "dpo", 3):
        inputs, outputs = case["inputs"], case["outputs"]
        if not inputs["ipo"]:
            yield (ratios(inputs, "chosen"), ratios(inputs, "rejected"), inputs["beta"], inputs["label_smoothing"],
                   outputs["loss"], outputs["grad_policy_chosen"])
    for case in golden("trl_losses", "dpo", 5):
        inputs, outputs = case["inputs"], case["outputs"]["sigmoid"]
        if inputs["f_divergence"] == "reverse_kl" and not inputs["reference_free"]:
            yield (*trl_ratios(inputs), inputs["beta"], inputs["label_smoothing"], np.mean(outputs["losses"]),
                   outputs["grad_chosen"])


def test_implicit_dpo(golden):
    checked = 0
    for right, wrong, beta, smoothing, expected, by_right in dpo_cases(golden):
        outputs, labels = pair_rows(right, wrong)
        room = (8, 2)
        more = {"beta": beta, "label_smoothing": smoothing}
        by_row, gradient = loss_and_gradient("implicit_dpo", outputs, labels, True, room,
                                             segments=np.tile([1, 2], (8, 1)), **more)
        groups = np.tile(np.arange(8)[:, None], 2)
        by_group, _ = loss_and_gradient("implicit_dpo", outputs, labels, True, room, segments=np.tile([1, 2], (8, 1)),
                                        groups=groups, **more)
        np.testing.assert_allclose(by_row.mean(), expected, rtol=1e-5)
        np.testing.assert_allclose(by_group.mean(), expected, rtol=1e-5)
        np.testing.assert_allclose(gradient[:, 0, 0], by_right, rtol=2e-4, atol=1e-8)
        assert by_row.weight == by_group.weight == len(right)
        checked += 1
    assert checked >= 8


def test_implicit_nca_of_one_right_and_one_wrong_response(golden):
    checked = 0
    for case in golden("trl_losses", "dpo"):
        inputs, expected = case["inputs"], case["outputs"].get("nca_pair")
        if expected is None:
            continue
        outputs, labels = pair_rows(*trl_ratios(inputs))
        loss, gradient = loss_and_gradient("implicit_nca", outputs, labels, True, (8, 2), segments=np.tile([1, 2], (8, 1)),
                                           beta=inputs["beta"], temperature=0.01)
        np.testing.assert_allclose(loss.mean(), np.mean(expected["losses"]), rtol=1e-5)
        np.testing.assert_allclose(gradient[:, 0, 0], expected["grad_chosen"], rtol=2e-4, atol=1e-7)
        np.testing.assert_allclose(gradient[:, 1, 0], expected["grad_rejected"], rtol=2e-4, atol=1e-7)
        checked += 1
    assert checked >= 4


def kto(inputs, **more):
    right, wrong = ratios(inputs, "chosen"), ratios(inputs, "rejected")
    labels = np.array([1] * len(right) + [0] * len(wrong))[:, None]
    outputs = responses([*right, *wrong])
    return len(right), *loss_and_gradient("implicit_kto", outputs, labels, True, (8, 1), beta=inputs["beta"], **more)


def test_implicit_kto_vanilla(golden):
    for case in golden("implicit_prm", "kto_vanilla", 3):
        count, loss, gradient = kto(case["inputs"])
        np.testing.assert_allclose(loss.mean(), case["outputs"]["loss"], rtol=1e-5)
        np.testing.assert_allclose(gradient[:count, 0, 0], case["outputs"]["grad_policy_chosen"], rtol=2e-4, atol=1e-8)
        np.testing.assert_allclose(gradient[count:, 0, 0], case["outputs"]["grad_policy_rejected"], rtol=2e-4, atol=1e-8)


def test_implicit_kto_uneven(golden):
    cases = golden("implicit_prm", "kto_uneven", 3) + golden("openrlhf_losses", "kto", 2)
    for case in cases:
        inputs, expected = case["inputs"], case["outputs"]
        point = ratios(inputs, "kl").mean()
        np.testing.assert_allclose(max(point, 0), expected["KL"], rtol=1e-5, atol=1e-5)
        factors = {name: inputs[name] for name in ("desirable_weight", "undesirable_weight")}
        count, loss, gradient = kto(inputs, static=(("variant", "uneven"),), reference_point=point, **factors)
        np.testing.assert_allclose(loss.mean(), expected["loss"], rtol=1e-5)
        if "grad_policy_chosen" in expected:
            np.testing.assert_allclose(gradient[:count, 0, 0], expected["grad_policy_chosen"], rtol=2e-4, atol=1e-8)


def test_implicit_step_rewards(golden):
    """Token log-ratios of the reference, summed up to each step's end; 1000 stands for no step."""
    coefficient = 0.001
    for case in golden("implicit_prm", "step_rewards", 5):
        inputs = case["inputs"]
        coefficient = inputs.get("coef", coefficient)
        ratio = np.array(inputs["policy_logps"]) - np.array(inputs["reference_logps"])
        sums = np.cumsum(np.where(np.array(inputs["label_mask"])[:, 1:], ratio, 0), axis=1)
        ends = np.array(inputs["special_tokens"])[:, 1:]
        mask = ends != -100
        up_to = np.where(mask, np.take_along_axis(sums, np.where(mask, ends, 0), 1), 0)
        own = np.where(mask, np.diff(up_to, prepend=0.0, axis=1), 0)
        for kind in ("single", "accumulative"):
            found = implicit_step_rewards(jnp.float32(own), jnp.asarray(mask), coefficient=coefficient, kind=kind)
            expected = np.array(case["outputs"][f"with_ref_{kind}"])
            np.testing.assert_allclose(np.where(mask, found, 1000), expected, rtol=1e-4, atol=1e-6)
            packed = implicit_step_rewards(jnp.float32(own).reshape(1, -1), jnp.asarray(mask).reshape(1, -1), kind=kind,
                                           coefficient=coefficient, segments=jnp.indices(own.shape)[0].reshape(1, -1))
            np.testing.assert_allclose(packed.reshape(mask.shape), found, rtol=1e-5, atol=1e-8)


def test_cross_entropy_of_reward_tokens(golden):
    """OpenRLHF reads the rows of reward tokens, the first of which is the good one; its third class is our neutral one or our
    wrong one, whichever order the tokens are given in."""
    for case in golden("openrlhf_losses", "prm_hard", 5):
        inputs = case["inputs"]
        tokens = list(inputs["reward_token_ids"])[::-1]  # the good one last
        labels = np.array(inputs["labels"])
        mask = (np.array(inputs["input_ids"]) == inputs["placeholder_token_id"]) & (labels != -100)
        place = np.array([tokens.index(int(label)) if known else 0 for label, known in zip(labels.ravel(), mask.ravel())])
        logits = np.array(inputs["logits"])[..., tokens]
        loss, gradient = loss_and_gradient("cross_entropy", logits, place.reshape(mask.shape) / (len(tokens) - 1), mask)
        expected = case["outputs"]["reward_tokens"]
        np.testing.assert_allclose(loss.mean(), expected["loss"], rtol=1e-5)
        np.testing.assert_allclose(gradient, np.array(expected["grad_logits"])[..., tokens], rtol=1e-4, atol=1e-6)


def test_cross_entropy_of_er_prm(golden):
    """The reference computes in bfloat16, and reads the logits before the marker."""
    for case in golden("misc_methods", "er_prm_ce", 3):
        inputs = case["inputs"]
        mask = np.array(inputs["labels"])[:, 1:] != -100
        logits = np.array(inputs["logits"])[:, :-1, [inputs["minus_id"], inputs["plus_id"]]]
        loss, _ = loss_and_gradient("cross_entropy", logits, np.array(inputs["values"])[:, 1:], mask)
        np.testing.assert_allclose(loss.mean(), case["outputs"]["loss"], rtol=1e-2)


def test_pairwise_ranking(golden):
    for case in golden("openrlhf_losses", "pairwise", 2):
        inputs, expected = case["inputs"], case["outputs"]
        outputs, labels = pair_rows(np.array(inputs["chosen_reward"]), np.array(inputs["reject_reward"]))
        margin = 0 if inputs["margin"] is None else inputs["margin"]
        loss, gradient = loss_and_gradient("pairwise_ranking", outputs, labels, True, (4, 2), margin=margin)
        np.testing.assert_allclose(loss.mean(), expected["loss"], rtol=1e-5)
        np.testing.assert_allclose(gradient[:, 0, 0], expected["grad_chosen"], rtol=1e-4, atol=1e-7)


def test_preference_pairs_are_weighted_as_in_rstar_math(golden):
    """The reference is given pairs with the sizes of both sides of their group, and sums. Each pair alone, times its factor."""
    for case in golden("misc_methods", "rstar_math_pair_loss", 3):
        inputs, expected = case["inputs"], case["outputs"]
        outputs, labels = pair_rows(np.array(expected["chosen_scores"]), np.array(expected["rejected_scores"]))
        factors = 1 / (np.array(inputs["pos_count"]) * np.array(inputs["neg_count"]))
        loss, _ = loss_and_gradient("preference_pairs", outputs, labels, True, weights=np.tile(factors[:, None], 2))
        np.testing.assert_allclose(loss.total, expected["loss"], rtol=1e-5)


def test_preference_pairs_find_the_factor_in_the_group():
    """Two right and three wrong siblings, of which two are taken: four pairs of weight 1/4."""
    s, y = np.array([0.3, -0.2, 0.9, 0.1, -1.0]), np.array([1.0, 0.8, 0.1, 0.0, 0.3])
    loss, _ = loss_and_gradient("preference_pairs", s[None, :, None], y[None], True)
    expected = np.mean([np.logaddexp(0, b - a) for a in (0.3, -0.2) for b in (0.9, 0.1)])
    np.testing.assert_allclose([loss.total, loss.weight], [expected, 1], rtol=1e-6)


def test_buffer_cross_entropy(golden):
    for case in golden("misc_methods", "freeprm", 5):
        inputs, expected = case["inputs"], case["outputs"]
        good, bad, buffer = inputs["candidate_tokens"]
        ids = np.array(inputs["labels"])
        loss, _ = loss_and_gradient("buffer_cross_entropy", np.array(inputs["logits"])[..., [bad, good, buffer]], ids == good,
                                    ids != -100, beta=inputs["beta"], last_weight=inputs["last_weight_num"])
        assert np.isfinite(loss.mean())
        if max(expected["nll_computed_by_us"]) < 30:  # from there on the reference's probabilities run out of float32
            np.testing.assert_allclose(loss.mean(), expected["mean_nll_computed_by_us"], rtol=2e-5)


def test_self_supervised(golden):
    """The score of a token is the logit before it. The reference adds 1e-5 to the sum of weights, and marks a sample that is no
    good with the reward 0.1."""
    for case in golden("misc_methods", "sprm_loss", 3):
        inputs = case["inputs"]
        reward = np.array(inputs["reward"])
        mask = np.array(case["outputs"]["score_mask"])[:, 1:] & (reward != 0.1)[:, None]
        outputs = np.array(inputs["head_logits"])[:, :-1, None]
        labels = np.broadcast_to((reward == 1.0)[:, None], mask.shape)
        loss, _ = loss_and_gradient("self_supervised", outputs, labels, mask)
        np.testing.assert_allclose(loss.total / (loss.weight + 1e-5), case["outputs"]["loss"], rtol=1e-5)
