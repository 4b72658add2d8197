"""The restatement of TRL's PRM tokenisation against rows that TRL 1.13.0 itself made."""

import json

import pytest

from jaxprm.errors import InputError
from jaxprm.steps import load_tokenizer, tokenize_trl_row
from jaxprm.testing import word_tokenizer


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads((shared / "fixtures" / "golden" / "trl_prm_tokenize_row.json").read_text())


@pytest.fixture(scope="module")
def row_of(golden, shared):
    folder = shared / "fixtures" / "golden" / "trl_tokenizers"
    tokenizers = {name: load_tokenizer(folder / name) for name in golden["tokenizers"]}

    def row(name: str, example: int, grid: int):
        row, settings = golden["examples"][example], golden["grid"][grid]
        return tokenize_trl_row(
            row["prompt"], row["completions"], row["labels"], tokenizers[name],
            bos_id=golden["tokenizers"][name]["bos_token_id"], separator=settings["step_separator"],
            max_length=settings["max_length"], max_completion_length=settings["max_completion_length"],
            last_step_only=settings["train_on_last_step_only"] and not settings["is_eval"])

    return row


def test_every_recorded_row(golden, row_of):
    cases = [case for case in golden["cases"] if case["inputs"]["kind"] == "tokenize_row"]
    for case in cases:
        ids, labels = row_of(case["inputs"]["tokenizer"], case["inputs"]["example"], case["inputs"]["grid"])
        labelled = [[place, label] for place, label in enumerate(labels) if label != -100]
        assert (ids, labelled) == (case["outputs"]["input_ids"], case["outputs"]["labelled_positions"]), case["id"]
        assert len(labels) == len(ids)
    assert len(cases) == 498


def test_every_recorded_batch(golden, row_of):
    """The collator pads ids, mask and labels on the tokenizer's own side."""
    cases = [case for case in golden["cases"] if case["inputs"]["kind"] == "collate"]
    for case in cases:
        settings = golden["tokenizers"][case["inputs"]["tokenizer"]]
        rows = [row_of(case["inputs"]["tokenizer"], example, case["inputs"]["grid"]) for example in case["inputs"]["examples"]]
        length = max(len(ids) for ids, _ in rows)
        left, right = (1, 0) if settings["padding_side"] == "left" else (0, 1)
        padding = [length - len(ids) for ids, _ in rows]
        assert case["outputs"]["input_ids"] == [
            [settings["pad_token_id"]] * (left * more) + ids + [settings["pad_token_id"]] * (right * more)
            for (ids, _), more in zip(rows, padding)]
        assert case["outputs"]["labels"] == [
            [-100] * (left * more) + labels + [-100] * (right * more) for (_, labels), more in zip(rows, padding)]
    assert len(cases) == 2


def test_layout_by_hand():
    tokenizer = word_tokenizer(["Q?", "a", "b"])
    question, a, b, newline = (tokenizer.token_id(piece) for piece in ("Q?", "a", "b", "\n"))
    ids, labels = tokenize_trl_row("Q?", ["a b", "b"], [True, 0.9], tokenizer, bos_id=1)
    assert ids == [1, question, a, b, newline, b, newline]
    assert labels == [-100, -100, -100, -100, 1, -100, 0]
    _, last = tokenize_trl_row("Q?", ["a b", "b"], [1, 1], tokenizer, last_step_only=True)
    assert last == [-100, -100, -100, -100, -100, 1]
    assert tokenize_trl_row("Q?", ["a b", "b"], [1, 1], tokenizer, max_completion_length=3, max_length=3) == (
        [question, a, b], [-100] * 3)


def test_what_cannot_be_labelled_is_refused():
    tokenizer = word_tokenizer(["Q?", "a"])
    with pytest.raises(InputError, match="has 1 labels for 2 steps"):
        tokenize_trl_row("Q?", ["a", "a"], [1], tokenizer)
    with pytest.raises(InputError, match="has no token to carry its label; use a separator"):
        tokenize_trl_row("Q?", [""], [1], tokenizer, separator="")
