"""Every row of every published family: the ids that the original code feeds, and the positions that it reads."""

from jaxprm.hub.families import FAMILIES
from jaxprm.steps.hf_tokenizer import load_hf_tokenizer


def test_ids_and_positions_are_those_of_the_original_code(case, shared):
    encoder = FAMILIES[case.family].encoder(load_hf_tokenizer(case.tokenizer(shared)), case.settings)
    rows = case.rows(shared)
    assert len(rows) == 12
    for row in rows:
        encoded = encoder.encode_rows(row["problem"], row["steps"], row.get("reference"))
        ends = [end for _, ends, *_ in encoded for end in ends]
        assert len(ends) == len(row["steps"])
        assert encoded[-1][0] == row["input_ids"], row["id"]
        assert _published(ends, case.family) == _per_step(row["positions"], row), row["id"]
        if "prefix_lengths" in row:
            assert [len(ids) for ids, _ in encoded] == row["prefix_lengths"]
        if case.family == "implicit":
            first = row["boundaries"][0]
            assert encoded[0][2] == (first - 1 if encoder.mask == "model_card" else first)


def _per_step(values, row):
    """Skywork scores lines: a step has the score of its last one."""
    return [values[line] for line in row["line_of_step_end"]] if "line_of_step_end" in row else values


def _published(values, family):
    """ReasonFlux scores whole solutions: the last prefix is one."""
    return values[-1:] if family == "reasonflux" else values
