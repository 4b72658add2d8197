"""The kernels for GPUs and TPUs against our own attention, as far as a CPU can run them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprm.errors import InputError
from jaxprm.models import LanguageModel, attention_kernels, forward, make_mesh
from jaxprm.models.attention import attend
from jaxprm.models.attention_kernels import cudnn_arguments, on_each_device, splash_attend
from jaxprm.testing import tiny_config, tiny_language_model


def inputs(rows, tokens, heads=4, kv_heads=2, size=8, dtype=jnp.float32):
    """Random heads; in every row two solutions and padding behind them, at other places in each row."""
    rng = np.random.default_rng(tokens)
    arrays = [jnp.asarray(rng.standard_normal((rows, tokens, count, size)), dtype) for count in (heads, kv_heads, kv_heads)]
    segments, positions = np.zeros((2, rows, tokens), np.int32)
    for row in range(rows):
        cuts = (0, tokens // 3 + 5 * row, tokens - 7 * (row + 1))
        for part, (start, end) in enumerate(zip(cuts, cuts[1:]), 1):
            segments[row, start:end], positions[row, start:end] = part, np.arange(end - start)
    return (*arrays, jnp.asarray(segments), jnp.asarray(positions))


def value_and_gradients(function, query, key, value, *others):
    def total(*heads):
        out = function(*heads, *others)
        return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

    gradients, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(query, key, value)
    return out, *gradients


def blocked(softcap):
    return lambda *arrays: attend(*arrays[:5], 0.3, softcap, arrays[5])


@pytest.mark.parametrize("softcap, windows, window", [(None, (0,), 0), (2.0, (0, 20), 20), (None, (0, 20), 0)])
def test_splash_equals_blocked(softcap, windows, window):
    arrays = (*inputs(2, 150), jnp.int32(window))
    splash = functools.partial(splash_attend, scale=0.3, softcap=softcap, windows=windows, interpret=True)
    for found, expected in zip(value_and_gradients(splash, *arrays), value_and_gradients(blocked(softcap), *arrays)):
        np.testing.assert_allclose(found, expected, atol=3e-6)


@pytest.mark.parametrize("axes", [(2, 2, 2), (2, 4, 1)], ids=str)
def test_splash_on_a_mesh(axes):
    arrays = (*inputs(8, 128), jnp.int32(0))
    splash = functools.partial(splash_attend, scale=0.3, softcap=None, windows=(0,), interpret=True)
    with jax.set_mesh(make_mesh(*axes)):
        found = jax.jit(functools.partial(on_each_device, splash))(*arrays)
    assert found.sharding.spec[0] == ("data", "fsdp") and found.sharding.spec[2] == "tensor"
    np.testing.assert_allclose(found, blocked(None)(*arrays), atol=2e-6)


def test_a_model_with_windows_runs_splash(monkeypatch):
    config = tiny_config(context=256, windows=(20, 0))
    _, _, _, segments, positions = inputs(1, 130)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 20, (1, 130)))
    expected = forward(tiny_language_model(0, config).backbone, tokens, positions, segments)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(attention_kernels, "splash_attend", functools.partial(splash_attend, interpret=True))
    model = tiny_language_model(0, tiny_config(context=256, windows=(20, 0), attention="splash"))
    found = jax.jit(forward)(model.backbone, tokens, positions, segments)
    real = np.asarray(segments[0] > 0)
    np.testing.assert_allclose(found[0, real], expected[0, real], atol=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 2e-6), (jnp.bfloat16, 0.01)])
@pytest.mark.parametrize("window", [0, 20])
def test_the_arguments_of_cudnn_mean_what_blocked_computes(dtype, tolerance, window):
    """cuDNN needs a GPU; the same arguments through XLA's implementation show that mask, factor and padding are right."""
    arrays = (*inputs(2, 150, dtype=dtype), jnp.int32(window))

    def dense(*arrays):
        arguments = cudnn_arguments(*arrays, 0.3)
        assert arguments["query"].shape[1] % 128 == 0 and arguments["mask"].shape == (2, 1, 256, 256)
        out = jax.nn.dot_product_attention(**arguments)[:, : arrays[0].shape[1]]
        return jnp.where((arrays[3] > 0)[..., None, None], out, 0)

    assert np.all(np.any(cudnn_arguments(*arrays, 0.3)["mask"], axis=-1))  # no query without a key, padding included
    for found, expected in zip(value_and_gradients(dense, *arrays), value_and_gradients(blocked(None), *arrays)):
        found, expected = np.asarray(found, np.float32), np.asarray(expected, np.float32)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("kernel, machine", [("cudnn", "GPU"), ("splash", "TPU")])
def test_a_kernel_that_this_machine_cannot_run_is_one_line(kernel, machine):
    config = tiny_config(attention=kernel, dtype="bfloat16")
    model = jax.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0)))
    ids = jnp.ones((1, 4), jnp.int32)
    with pytest.raises(InputError, match=f"field 'attention' = '{kernel}': runs on a {machine}, this machine offers a CPU; "
                                         "use blocked"):
        jax.eval_shape(forward, model.backbone, ids, ids, ids)


@pytest.mark.parametrize("changes, message", [
    (dict(), "field 'dtype' = 'float32': must be bfloat16 for attention = 'cudnn'"),
    (dict(dtype="bfloat16", head_dim=12), "field 'head_dim' = 12: must be a multiple of 8 up to 256"),
    (dict(dtype="bfloat16", attention_softcap=2.0), "field 'attention_softcap' = 2.0: must be None")])
def test_models_that_cudnn_cannot_compute_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        tiny_config(attention="cudnn", **changes)


def test_cudnn_refusals_are_one_line(monkeypatch):
    def refuse(**arguments):
        assert arguments["implementation"] == "cudnn" and arguments["is_causal"]
        raise NotImplementedError("The head dim must be <= 128")

    monkeypatch.setattr(jax.nn, "dot_product_attention", refuse)
    with pytest.raises(InputError, match=r"field 'attention' = 'cudnn': refused by cuDNN \(The head dim must be <= 128\)"):
        attention_kernels.cudnn_attend(*inputs(1, 20), jnp.int32(0), scale=0.3)
