"""Speed of the decoder on this machine: training, scoring and sampling tokens/s beside the measured GEMM peak.

    .venv/bin/python experiments/performance/cpu.py            about a minute on 2 CPU cores

Prints one JSON object. Floating-point operations count 2 per parameter of a matrix product and token (x 3 for a training step)
plus attention over whole rows; the peak is that of a 2048 x 2048 float32 product in the same process.
"""

import argparse
import json
import time

from jaxprm.runtime import keep_freed_memory


def best_seconds(function, *arguments, repeats: int) -> tuple[float, float, float]:
    """(seconds of the first call, which compiles; least seconds of the others; their least CPU seconds, all cores)."""
    import jax

    seconds, cpu = [], []
    for _ in range(repeats + 1):
        start, busy = time.perf_counter(), time.process_time()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
    return seconds[0], min(seconds[1:]), min(cpu[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--rolled", action="store_true", help="keep the loop over layers rolled")
    parser.add_argument("--return-memory", action="store_true", help="let glibc unmap freed buffers, as it does by default")
    options = parser.parse_args()
    kept = not options.return_memory and keep_freed_memory()

    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jaxprm.generation import SamplingConfig, sample
    from jaxprm.models import HeadConfig, LanguageModel, RewardModel, TransformerConfig, parameters, transformer
    from jaxprm.scoring import score_steps
    from jaxprm.steps import pad_solutions
    from jaxprm.training import OptimizerConfig, initial_state, language_model_loss, make_train_step

    if options.rolled:
        transformer._SHALLOW_LAYERS = transformer._UNROLLED_LAYERS = 0
    config = TransformerConfig(vocab_size=96, width=options.width, layers=options.layers, mlp_dim=3 * options.width,
                               heads=options.width // 32, kv_heads=options.width // 32)
    rows, tokens = options.rows, options.tokens
    square = jnp.ones((2048, 2048))
    _, seconds, _ = best_seconds(jax.jit(lambda x: x @ x), square, repeats=options.repeats)
    peak = 2 * 2048**3 / seconds
    attention = 4 * config.layers * config.heads * config.head_dim * tokens  # per token, whole rows
    forward = 2 * (config.matmul_parameters + config.vocab_size * config.width) + attention

    policy, reward = LanguageModel(config, rngs=nnx.Rngs(0)), RewardModel(config, HeadConfig(), rngs=nnx.Rngs(1))
    batch = {"tokens": jnp.ones((rows, tokens), jnp.int32), "segment_ids": jnp.ones((rows, tokens), jnp.int32),
             "positions": jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32), (rows, tokens)),
             "loss_mask": jnp.ones((rows, tokens), bool)}
    optimizer = OptimizerConfig().build(100)
    train_step, state = make_train_step(policy, language_model_loss, optimizer), initial_state(policy, optimizer)

    def step():
        nonlocal state
        state, metrics = train_step(state, batch)
        return state, metrics

    compiled, seconds, busy = best_seconds(step, repeats=options.repeats)
    size = sum(value.size for value in parameters(policy).values())
    found = {"devices": jax.device_count(), "memory_kept": kept, "parameters": size, "gemm_gflops": peak / 1e9,
             "train": {"tokens_per_second": rows * tokens / seconds, "first_call_seconds": compiled, "cpu_seconds": busy,
                       "share_of_peak": 3 * forward * rows * tokens / seconds / peak}}
    solutions = pad_solutions([([1] * tokens, range(7, tokens, 8))] * rows, tokens, tokens // 8)
    compiled, seconds, busy = best_seconds(jax.jit(score_steps), reward, solutions, repeats=options.repeats)
    without_output = forward - 2 * config.vocab_size * config.width
    found["score"] = {"tokens_per_second": rows * tokens / seconds, "first_call_seconds": compiled, "cpu_seconds": busy,
                      "share_of_peak": without_output * rows * tokens / seconds / peak}
    prompts, lengths = jnp.ones((64, 24), jnp.int32), jnp.full((64,), 20, jnp.int32)
    draw = jax.jit(lambda model, key: sample(model, key, prompts, lengths, width=8, limit=48, config=SamplingConfig(),
                                             end_id=10**6))  # no token ends a sample: 48 tokens in each of 512 rows
    compiled, seconds, busy = best_seconds(draw, policy, jax.random.key(0), repeats=3)
    found["sample"] = {"tokens_per_second": 512 * 48 / seconds, "first_call_seconds": compiled, "cpu_seconds": busy}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
