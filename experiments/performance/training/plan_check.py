"""`jaxprm plan` against XLA's compiled memory analysis, on simulated devices; nothing is allocated or run.

    .venv/bin/python experiments/performance/training/plan_check.py                          the tiny shape of the tests
    .venv/bin/python experiments/performance/training/plan_check.py --model 1.5B --tokens 4096 --rows 4 --meshes 1,1,1 1,4,1

Prints a Markdown table: arguments (parameters, optimiser state, batch; must be equal to the byte) and temporary memory
(gradients, activations, working memory) per device. XLA's CPU backend has no bfloat16 products and keeps float32 copies, so
the plan is compared in float32 unless --dtype says otherwise.
"""

import argparse
import dataclasses
import math
import os


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, 1.5B, 7B or 72B")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--remat", nargs="+", default=["none", "dots", "full"])
    parser.add_argument("--meshes", nargs="+", default=["1,1,1", "2,2,2"], metavar="DATA,FSDP,TENSOR")
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"], os.environ["JAX_NUM_CPU_DEVICES"] = "cpu", "8"

    import jax
    import jax.numpy as jnp
    from flax import nnx
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxprm.models import RewardModel, TransformerConfig, batch_sharding, make_mesh, parameter_shardings, parameters
    from jaxprm.objectives import binary_cross_entropy
    from jaxprm.pipelines.plan import MODELS, Setup
    from jaxprm.training import TrainState, make_train_step, mesh_scope, step_loss

    tiny = TransformerConfig(128, width=64, layers=9, heads=4, kv_heads=2, head_dim=16, mlp_dim=192)
    print("| model | mesh | remat | arguments: plan - XLA | temporary: plan, MiB | XLA, MiB | plan / XLA |")
    print("|---|---|---|---|---|---|---|")
    for sizes in (tuple(map(int, mesh.split(","))) for mesh in options.meshes):
        mesh = None if math.prod(sizes) == 1 else make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])
        for remat in options.remat:
            config = dataclasses.replace(({"tiny": tiny} | MODELS)[options.model], dtype=options.dtype, remat=remat)
            plan = Setup(config, rows=options.rows, tokens=options.tokens, steps=16, devices=math.prod(sizes), mesh=sizes)
            planned, optimizer = plan.memory(), plan.training.optimizer.build(plan.training.steps)
            model = jax.eval_shape(lambda: RewardModel(config, plan.head, rngs=nnx.Rngs(0)))  # noqa: B023

            def place(array, sharding=None):
                return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

            values, whole = parameters(model), mesh and NamedSharding(mesh, PartitionSpec())
            places = dict.fromkeys(values) if mesh is None else parameter_shardings(values, mesh)
            values = {name: place(value, places[name]) for name, value in values.items()}
            batch = {name: place(value, mesh and batch_sharding(mesh)) for name, value in plan.batch().items()}
            with mesh_scope(mesh):
                state = jax.eval_shape(optimizer.init, values)
                if mesh is not None:
                    state = jax.tree.map(lambda x: place(x, x.sharding and NamedSharding(mesh, x.sharding.spec) or whole),  # noqa: B023
                                         state)
                state = TrainState(place(jnp.zeros((), jnp.int32), whole), values, state)
                step = make_train_step(model, step_loss(binary_cross_entropy), optimizer).lower(state, batch).compile()
            found = step.memory_analysis()
            print(f"| {options.model} | {sizes} | {remat} | {planned.arguments + 4 - found.argument_size_in_bytes} | "
                  f"{planned.temporary / 2**20:,.1f} | {found.temp_size_in_bytes / 2**20:,.1f} | "
                  f"{planned.temporary / found.temp_size_in_bytes:.2f} |", flush=True)


if __name__ == "__main__":
    main()
