"""A model of a published size with random weights: load, score a batch, write it again; seconds and peak memory of each.

    .venv-parity/bin/python experiments/performance/scoring/real_shape.py --size 1.5B --dtype bfloat16

Every way runs in a process of its own (peak memory is that of the process, from the operating system), reads the same
Qwen2ForTokenClassification directory and scores the same 8 solutions of 8 steps; the scores are compared at the end.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZES = {"0.5B": (896, 4864, 24, 14, 2), "1.5B": (1536, 8960, 28, 12, 2), "7B": (3584, 18944, 28, 28, 4)}
WORDS = "the sum of both sides is then divided by three and so x equals seven plus a rest".split()


def solutions() -> list[tuple[str, list[str]]]:
    rng = np.random.default_rng(0)
    text = lambda n: " ".join(rng.choice(WORDS, n))  # noqa: E731
    return [(text(40), [text(int(rng.integers(10, 40))) for _ in range(8)]) for _ in range(8)]


def make(folder: Path, size: str) -> None:
    """Writes the checkpoint, one tensor at a time in memory, in shards as published ones are."""
    import ml_dtypes
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    width, mlp, layers, heads, kv_heads = SIZES[size]
    vocabulary, head = 151_936, width // heads
    rng = np.random.default_rng(0)

    def normal(*shape):
        return (rng.standard_normal(shape, np.float32) * shape[-1] ** -0.5).astype(ml_dtypes.bfloat16)

    weight_map, total = {}, 0

    def write(number: int, tensors: dict) -> None:
        nonlocal total
        name = f"model-{number:05d}-of-{layers + 1:05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))
        total += sum(value.nbytes for value in tensors.values())

    ones = np.ones(width, ml_dtypes.bfloat16)
    write(1, {"model.embed_tokens.weight": normal(vocabulary, width), "model.norm.weight": ones,
              "score.weight": normal(2, width), "score.bias": np.zeros(2, ml_dtypes.bfloat16)})
    for layer in range(layers):
        place = f"model.layers.{layer}."
        tensors = {f"{place}input_layernorm.weight": ones, f"{place}post_attention_layernorm.weight": ones}
        for name, rows in (("q", heads * head), ("k", kv_heads * head), ("v", kv_heads * head)):
            tensors[f"{place}self_attn.{name}_proj.weight"] = normal(rows, width)
            tensors[f"{place}self_attn.{name}_proj.bias"] = normal(rows)
        tensors[f"{place}self_attn.o_proj.weight"] = normal(width, heads * head)
        tensors[f"{place}mlp.gate_proj.weight"], tensors[f"{place}mlp.up_proj.weight"] = normal(mlp, width), normal(mlp, width)
        tensors[f"{place}mlp.down_proj.weight"] = normal(width, mlp)
        write(layer + 2, tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["Qwen2ForTokenClassification"], "model_type": "qwen2", "hidden_size": width,
        "num_hidden_layers": layers, "intermediate_size": mlp, "vocab_size": vocabulary,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": 4096, "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_sliding_window": False, "pad_token_id": 0,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}))
    entries = ["<pad>", "\n\n", *dict.fromkeys(WORDS)]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(entries)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<pad>"}))


def with_jaxprm(folder: Path, output: Path, dtype: str) -> dict:
    from jaxprm.hub.families import Settings
    from jaxprm.hub.load import load_prm
    from jaxprm.pipelines import export
    from jaxprm.progress import SilentProgress
    from jaxprm.records import Problem, Solution
    from jaxprm.runtime import keep_freed_memory
    from jaxprm.scoring import StepScorer

    keep_freed_memory()  # as the command line does
    clock = [time.perf_counter()]
    loaded = load_prm(folder, "trl", dtype=dtype, settings=Settings(separator="\n\n"))
    clock.append(time.perf_counter())
    scorer = StepScorer(loaded.model, loaded.encoder)
    rows = [Solution(Problem(str(i), problem), tuple(steps)) for i, (problem, steps) in enumerate(solutions())]
    scorer.score(rows)
    clock.append(time.perf_counter())
    scores = scorer.score(rows)
    clock.append(time.perf_counter())
    export.run(model=folder, output=output, family="trl", settings=Settings(separator="\n\n"), dtype=dtype,
               progress=SilentProgress())
    clock.append(time.perf_counter())
    return report(["load", "first batch", "next batch", "export"], clock, scores)


def with_transformers(folder: Path, output: Path, dtype: str) -> dict:
    import torch
    import transformers

    clock = [time.perf_counter()]
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder, dtype=getattr(torch, dtype),
                                                                         attn_implementation="sdpa").eval()
    clock.append(time.perf_counter())
    # Not AutoTokenizer: transformers 5 would read the file of a qwen2 model as Qwen's own kind of tokenizer.
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    encode = lambda text: tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
    rows, ends = [], []
    for problem, steps in solutions():
        ids, at = encode(problem), []
        for step in steps:
            ids = ids + encode(step) + encode("\n\n")
            at.append(len(ids) - 1)
        rows.append(ids)
        ends.append(at)
    longest = max(map(len, rows))

    @torch.inference_mode()
    def score():
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        good = torch.softmax(model(input_ids=ids, attention_mask=mask).logits.float(), -1)[..., 1].numpy()
        return [good[i, at] for i, at in enumerate(ends)]

    score()
    clock.append(time.perf_counter())
    scores = score()
    clock.append(time.perf_counter())
    model.save_pretrained(output)
    clock.append(time.perf_counter())
    return report(["load", "first batch", "next batch", "export"], clock, scores)


def report(names: list[str], clock: list[float], scores) -> dict:
    seconds = {name: after - before for name, before, after in zip(names, clock, clock[1:])}
    return {"seconds": seconds, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "scores": [row.tolist() for row in scores]}


WAYS = {"jaxprm": with_jaxprm, "transformers": with_transformers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1.5B")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        with tempfile.TemporaryDirectory() as output:
            print("RESULT " + json.dumps(WAYS[options.way](options.folder, Path(output) / "out", options.dtype)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.size)
        stored = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")) / 2**30
        found = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--folder", folder, "--dtype", options.dtype]
            done = subprocess.run(command, capture_output=True, text=True)
            lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            if done.returncode or not lines:
                sys.exit(f"{way} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
            found[way] = json.loads(lines[0].removeprefix("RESULT "))
    print(f"{options.size}, {options.dtype}; {stored:.2f} GiB of weights on disk\n\n"
          "| way | load | first batch | next batch | export | peak memory |\n|---|---|---|---|---|---|")
    for way, result in found.items():
        print(f"| {way} | " + " | ".join(f"{value:.1f} s" for value in result["seconds"].values())
              + f" | {result['peak_gib']:.2f} GiB |")
    worst = max(abs(a - b) for mine, theirs in zip(found["jaxprm"]["scores"], found["transformers"]["scores"])
                for a, b in zip(mine, theirs))
    print(f"\nLargest difference of a score: {worst:.1e}")


if __name__ == "__main__":
    main()
