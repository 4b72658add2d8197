"""Training against TRL 1.13.0's PRMTrainer: same weights, tokens, labels, batches and optimiser, float32: the same losses."""

import dataclasses
import random
import types
import warnings

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from jaxprm.data.examples import step_example
from jaxprm.data.pipeline import StepDataset
from jaxprm.hub.load import load_prm
from jaxprm.objectives import cross_entropy
from jaxprm.training import OptimizerConfig, TrainConfig, fit, initial_state, make_train_step, read_metrics, step_loss

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

STEPS, BATCH, TOLERANCE = 20, 4, 1e-4
WORDS = "so we add the two and get a sum which is 12 34 5 + - = boxes of pens then half therefore total".split()
ADAM = dict(learning_rate=3e-3, beta1=0.9, beta2=0.98)


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """One optimiser in both languages; both compute lr_t * (m / (sqrt(v) + 1e-8) + decay * w) after clipping."""

    ours: OptimizerConfig
    theirs: dict


OPTIMISERS = {
    "constant": Optimiser(OptimizerConfig(**ADAM, warmup=0.0, final_rate=1.0, weight_decay=0.01, clip=1.0),
                          dict(lr_scheduler_type="constant", weight_decay=0.01, max_grad_norm=1.0)),
    # Warm-up and decay, a clip that always cuts, and a decay that would show if a bias or a norm had it.
    "schedule": Optimiser(OptimizerConfig(**ADAM, warmup=0.2, final_rate=0.1, weight_decay=0.5, clip=0.2),
                          dict(lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr_rate": 0.1},
                               warmup_steps=4, weight_decay=0.5, max_grad_norm=0.2)),
}


def rows():
    rng = random.Random(0)
    text = lambda most: " ".join(rng.choices(WORDS, k=rng.randint(2, most)))
    made = []
    for _ in range(STEPS * BATCH):
        steps = [text(9) + "." for _ in range(rng.randint(1, 4))]
        made.append({"prompt": text(12) + "?", "completions": steps, "labels": [rng.random() < 0.6 for _ in steps]})
    return made


@pytest.fixture(scope="module")
def prm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("trl.experimental.prm")


@pytest.fixture(scope="module")
def checkpoint(transformers, build, tmp_path_factory):
    """A tiny Qwen2 token classifier and a byte-level tokenizer, as transformers saves them."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<pad>", "<end>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([" ".join(WORDS)] * 2, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")
    build("qwen2", "TokenClassification", num_labels=2, vocab_size=320, max_position_embeddings=512).save_pretrained(folder)
    fast.save_pretrained(folder)
    return types.SimpleNamespace(folder=folder, tokenizer=fast)


@pytest.fixture(scope="module", params=OPTIMISERS)
def theirs(request, prm, checkpoint, transformers, tmp_path_factory):
    """The log of TRL's own loop (one entry per step), and the model it leaves."""
    import datasets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        datasets.disable_progress_bars()
        model = transformers.AutoModelForTokenClassification.from_pretrained(checkpoint.folder, attn_implementation="eager")
        config = prm.PRMConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")), learning_rate=ADAM["learning_rate"], adam_beta1=ADAM["beta1"],
            adam_beta2=ADAM["beta2"], adam_epsilon=1e-8, optim="adamw_torch", per_device_train_batch_size=BATCH,
            max_steps=STEPS, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, bf16=False,
            gradient_checkpointing=False, use_cpu=True, train_sampling_strategy="sequential", dataloader_pin_memory=False,
            step_separator="\n", **OPTIMISERS[request.param].theirs)
        trainer = prm.PRMTrainer(model=model, args=config, processing_class=checkpoint.tokenizer,
                                 train_dataset=datasets.Dataset.from_list(rows()))
        trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(log) == STEPS
    return types.SimpleNamespace(log=log, model=trainer.model.eval(), optimiser=OPTIMISERS[request.param].ours)


@pytest.fixture(scope="module")
def ours(checkpoint):
    """The same checkpoint loaded here, and the rows as its family encodes them."""
    loaded = load_prm(checkpoint.folder, "trl")
    examples = [step_example(*loaded.encoder.encode(row["prompt"], row["completions"]), [float(x) for x in row["labels"]])
                for row in rows()]
    return types.SimpleNamespace(model=loaded.model, examples=examples)


def column(log, name):
    return np.array([entry[name] for entry in log])


def compare(losses, norms, theirs):
    expected = column(theirs.log, "loss")
    print(f"largest difference: losses {np.abs(losses - expected).max():.1e} of {expected.min():.2f} to {expected.max():.2f}, "
          f"gradient norms {np.abs(norms - column(theirs.log, 'grad_norm')).max():.1e}")
    assert expected[-5:].mean() < 0.8 * expected[:5].mean(), "nothing was learnt, so equal losses say little"
    np.testing.assert_allclose(losses, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(norms, column(theirs.log, "grad_norm"), rtol=1e-3)
    # Before the first update only the forward and backward pass can differ.
    np.testing.assert_allclose((losses[0], norms[0]), (expected[0], theirs.log[0]["grad_norm"]), rtol=1e-5)


def test_losses_are_those_of_trl(ours, theirs, tmp_path):
    """20 steps, one solution per row; the mean is over the labelled steps of the batch on both sides."""
    dataset = StepDataset(ours.examples, row_tokens=128, row_steps=8, batch_rows=BATCH, seed=None, packing=False)
    config = TrainConfig(steps=STEPS, log_every=1, checkpoint_every=STEPS, optimizer=theirs.optimiser)
    fit(ours.model, step_loss(cross_entropy), dataset, config, tmp_path, run={"test": 1})
    log = read_metrics(tmp_path / "metrics.jsonl")
    compare(column(log, "loss"), column(log, "gradient_norm"), theirs)
    np.testing.assert_allclose(column(log, "learning_rate"), column(theirs.log, "learning_rate"), rtol=1e-5, atol=1e-9)


def test_packed_rows_have_the_losses_of_trls_padded_ones(ours, theirs):
    """The four solutions of a batch share rows; TRL pads each to the longest."""
    optimizer = theirs.optimiser.build(STEPS)
    step, state = make_train_step(ours.model, step_loss(cross_entropy), optimizer), initial_state(ours.model, optimizer)
    losses, norms = [], []
    for at in range(0, len(ours.examples), BATCH):
        (batch,) = StepDataset(ours.examples[at : at + BATCH], row_tokens=256, row_steps=16, batch_rows=2, seed=None, epochs=1)
        assert batch["segment_ids"].max() > 1 and (batch["positions"] == 0)[batch["segment_ids"] > 0].sum() == BATCH
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["gradient_norm"]))
    compare(np.array(losses), np.array(norms), theirs)
