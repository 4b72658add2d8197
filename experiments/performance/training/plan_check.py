"""`jaxprm plan` against XLA's compiled memory analysis, on simulated devices; nothing is allocated or run.

    .venv/bin/python experiments/performance/training/plan_check.py                          the tiny shape of the tests
    .venv/bin/python experiments/performance/training/plan_check.py --kinds all --remat dots  all that can be trained
    .venv/bin/python experiments/performance/training/plan_check.py --model 1.5B --tokens 4096 --rows 4 --meshes 1,1,1 1,4,1

Prints a Markdown table: arguments (parameters, optimiser state, moving average, batch; must be equal to the byte) and temporary
memory (gradients, activations, working memory) per device. XLA's CPU backend has no bfloat16 products and keeps float32 copies,
so the plan is compared in float32 unless --dtype says otherwise.
"""

import argparse
import dataclasses
import math
import os


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, wide, words, words_untied, 1.5B, 7B or 72B")
    parser.add_argument("--kinds", nargs="+", default=["plain"], help="of training: plain, parts, adapters, average, stages, "
                        "policy, value_and_words, both_directions, implicit, implicit_adapters, ensemble; or all")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--remat", nargs="+", default=["none", "dots", "full"])
    parser.add_argument("--meshes", nargs="+", default=["1,1,1", "2,2,2"], metavar="DATA,FSDP,TENSOR")
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"], os.environ["JAX_NUM_CPU_DEVICES"] = "cpu", "8"

    import jax

    from jaxprm.models import HeadConfig, TransformerConfig, make_mesh
    from jaxprm.pipelines.plan import MODELS, Setup
    from jaxprm.pipelines.prm_recipe import Recipe
    from jaxprm.testing.compiled_step import compiled_memory
    from jaxprm.training import LoraConfig, OptimizerConfig, TrainConfig

    tiny = TransformerConfig(128, width=64, layers=5, heads=4, kv_heads=2, head_dim=16, mlp_dim=192)
    models = MODELS | {"tiny": tiny, "words": dataclasses.replace(tiny, vocab_size=2**14),
                       "words_untied": dataclasses.replace(tiny, vocab_size=2**14, tie_embeddings=False),
                       "wide": TransformerConfig(256, width=256, layers=6, heads=4, kv_heads=2, head_dim=64, mlp_dim=1024)}
    implicit = {"objective": "implicit_cross_entropy", "recipe": Recipe(labels="outcome")}
    kinds = {"plain": {}, "parts": {"training": TrainConfig(10, accumulate=4)},
             "adapters": {"training": TrainConfig(10, lora=LoraConfig(8))}, "average": {"training": TrainConfig(10, ema=0.9)},
             "stages": {"training": TrainConfig(10, OptimizerConfig(freeze_backbone_steps=5))},
             "policy": {"recipe": Recipe(keep_policy=True)},
             "value_and_words": {"objective": "mean_squared_error", "recipe": Recipe(language_model_weight=1.0)},
             "both_directions": {"head": HeadConfig(direction="gate")}, "implicit": implicit,
             "implicit_adapters": implicit | {"training": TrainConfig(10, lora=LoraConfig(8))},
             "ensemble": {"head": HeadConfig("ensemble", hidden=16, members=4), "objective": "ensemble_anchor"}}
    print("| model | training | mesh | remat | arguments: plan - XLA | temporary: plan, MiB | XLA, MiB | plan / XLA |")
    print("|---|---|---|---|---|---|---|---|")
    for sizes in (tuple(map(int, mesh.split(","))) for mesh in options.meshes):
        devices = math.prod(sizes)
        mesh = None if devices == 1 else make_mesh(*sizes, devices=jax.devices()[:devices])
        for kind in kinds if options.kinds == ["all"] else options.kinds:
            for remat in options.remat:
                config = dataclasses.replace(models[options.model], dtype=options.dtype, remat=remat)
                plan = Setup(**{"model": config, "rows": options.rows, "tokens": options.tokens, "steps": 16, "mesh": sizes,
                                "devices": devices, "training": TrainConfig(10)} | kinds[kind])
                for stage, planned in plan.stages():
                    found = compiled_memory(plan, mesh, head_alone=(alone := "head alone" in stage))
                    print(f"| {options.model} | {kind}{', head alone' if alone else ''} | {sizes} | {remat} | "
                          f"{planned.arguments + 4 - found.argument_size_in_bytes} | {planned.temporary / 2**20:,.1f} | "
                          f"{found.temp_size_in_bytes / 2**20:,.1f} | {planned.temporary / found.temp_size_in_bytes:.2f} |",
                          flush=True)


if __name__ == "__main__":
    main()
