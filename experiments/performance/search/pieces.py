"""CPU seconds of the pieces of a decoding step in the form that jaxprm uses and in the plain one.

    python experiments/performance/search/pieces.py            half a minute on 2 CPU cores

Shapes are those of compare.py's models with 64 rows and room for 640 tokens.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp

from jaxprm.generation.sampler import SamplingConfig, draw
from jaxprm.models.attention import _logits
from jaxprm.runtime import keep_freed_memory

ROWS, KEY_HEADS, QUERIES, SLOTS, HEAD, VOCABULARY, LAYERS, WIDTH, HIDDEN, TURNS = 64, 2, 6, 640, 64, 8192, 6, 768, 2048, 40


def milliseconds(function, *arguments) -> float:
    """Least CPU time of five calls, all cores together."""
    compiled, best = jax.jit(function), float("inf")
    jax.block_until_ready(compiled(*arguments))
    for _ in range(5):
        busy = time.process_time()
        jax.block_until_ready(compiled(*arguments))
        best = min(best, time.process_time() - busy)
    return best * 1e3


def turns(x, up, down, apart: bool):
    """A loop over tokens around layers whose weights are stacked; ``apart`` takes the stack apart before it."""
    layers = [(up[i], down[i]) for i in range(LAYERS)] if apart else None

    def turn(_, x):
        for i in range(LAYERS):
            first, second = layers[i] if apart else (up[i], down[i])
            x = jnp.tanh(x @ first) @ second
        return x

    return jax.lax.fori_loop(0, TURNS, turn, x)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    keep_freed_memory()
    key = jax.random.key(0)
    values, keys = jax.random.normal(key, (ROWS, VOCABULARY)), jax.random.split(key, ROWS)
    query = jax.random.normal(key, (ROWS, KEY_HEADS, QUERIES, HEAD))
    cache = jax.random.normal(key, (ROWS, KEY_HEADS, SLOTS, HEAD))
    up, down = jax.random.normal(key, (LAYERS, WIDTH, HIDDEN)), jax.random.normal(key, (LAYERS, HIDDEN, WIDTH))
    plain_draw = lambda keys, values: (jax.vmap(jax.random.categorical)(keys, values),  # noqa: E731
                                       jax.nn.log_softmax(values)[:, 0])
    pieces = {
        "a token of each row drawn": (
            milliseconds(plain_draw, keys, values),
            milliseconds(lambda keys, values: draw(keys, values, SamplingConfig()), keys, values)),
        "attention logits of one query": (
            milliseconds(lambda q, k: jnp.einsum("rkqh,rkch->rkqc", q, k), query, cache),
            milliseconds(lambda q, k: _logits(q.reshape(ROWS, 1, -1, HEAD), k, 1.0, None), query, cache)),
        "MLPs of 6 layers, 16 rows": tuple(
            milliseconds(lambda x, up, down, apart=apart: turns(x, up, down, apart), jnp.ones((16, WIDTH)), up, down) / TURNS
            for apart in (False, True))}
    print("| piece | plain, CPU ms | ours, CPU ms |\n|---|---|---|")
    for name, (plain, ours) in pieces.items():
        print(f"| {name} | {plain:.1f} | {ours:.1f} |")


if __name__ == "__main__":
    main()
