"""Memory and time of a training step by length of a row and remat policy: memory must grow with the length, not its square.

    .venv/bin/python experiments/performance/training/long_rows.py           about 10 minutes on 2 CPU cores
    .venv/bin/python experiments/performance/training/long_rows.py --tokens 2048 8192

Prints a Markdown table, one line per row length and policy. "XLA" is what its compiled step allocates besides parameters,
optimiser state and batch (`memory_analysis`), "plan" what `jaxprm plan` says, "seconds" one step, not counting compilation.
"""

import argparse
import time

from jaxprm.runtime import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192, 32768])
    parser.add_argument("--remat", nargs="+", default=["none", "dots", "full"])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--compile-only", action="store_true", help="measure memory, not time")
    options = parser.parse_args()
    keep_freed_memory()

    import jax
    import numpy as np
    from flax import nnx

    from jaxprm.models import HeadConfig, RewardModel, TransformerConfig
    from jaxprm.objectives import binary_cross_entropy
    from jaxprm.steps import pad_solutions
    from jaxprm.training import TrainConfig, initial_state, make_train_step, step_loss
    from jaxprm.training.memory import step_memory

    training, loss = TrainConfig(10), step_loss(binary_cross_entropy)
    optimizer = training.optimizer.build(training.steps)
    print("| tokens | remat | XLA, MiB | bytes per token | plan, MiB | seconds |\n|---|---|---|---|---|---|")
    for tokens in options.tokens:
        batch = pad_solutions([(np.ones(tokens - 7, int), range(63, tokens - 7, 64))], tokens, tokens // 64).arrays()
        for remat in options.remat:
            config = TransformerConfig(256, width=options.width, layers=options.layers, heads=options.heads, kv_heads=1,
                                       head_dim=32, mlp_dim=3 * options.width, context=tokens, remat=remat)
            build = lambda config: RewardModel(config, HeadConfig(), rngs=nnx.Rngs(0))  # noqa: E731
            model = build(config)
            state = initial_state(model, optimizer)
            step = make_train_step(model, loss, optimizer).lower(state, batch).compile()
            size = step.memory_analysis().temp_size_in_bytes
            planned = step_memory(build, config, loss, training, batch).temporary
            seconds = ""
            if not options.compile_only:
                start = time.perf_counter()
                jax.block_until_ready(step(state, batch))
                seconds = f"{time.perf_counter() - start:.2f}"
            print(f"| {tokens:,} | {remat} | {size / 2**20:.0f} | {size / tokens:,.0f} | {planned / 2**20:.0f} | {seconds} |",
                  flush=True)


if __name__ == "__main__":
    main()
