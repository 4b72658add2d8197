"""What families refuse, what shifts nothing, and which family a directory shows."""

import dataclasses
import json

import pytest

from jaxprm.errors import InputError
from jaxprm.hub.families import FAMILIES, Settings
from jaxprm.hub.load import load_prm, open_prm
from jaxprm.steps.hf_tokenizer import load_hf_tokenizer


@pytest.fixture
def encoder(cases, shared):
    """Name of a case -> its encoder."""
    def make(name, settings=None):
        case = cases[name]
        tokenizer = load_hf_tokenizer(case.tokenizer(shared))
        return FAMILIES[case.family].encoder(tokenizer, settings or case.settings)

    return make


def test_every_family_has_a_fixture(cases):
    assert {case.family for case in cases.values()} == set(FAMILIES)
    assert list(FAMILIES) == ["qwen-math-prm", "math-shepherd", "rlhflow", "skywork", "trl", "pure", "pqm", "reasoneval",
                              "openr", "versaprm", "actprm", "universal-prm", "reasonflux", "openrlhf", "er-prm", "implicit"]


@pytest.mark.parametrize("name", ["math_shepherd", "er_prm", "openrlhf"])
def test_text_that_looks_like_a_mark_shifts_nothing(encoder, name):
    encoder = encoder(name)
    plain = encoder.encode("Q?", ["one", "two"])
    ids, ends = encoder.encode("Q? ки", ["one ки two", "two"])
    assert len(ends) == 2 and [ids[end] for end in ends] == [plain[0][end] for end in plain[1]] == [encoder.mark.token] * 2
    assert ids.count(encoder.mark.token) == 4 and ends[-1] == len(ids) - 1


@pytest.mark.parametrize("name", ["qwen_math_prm", "actprm", "pqm"])
def test_a_special_mark_inside_a_step_is_refused_and_one_in_the_problem_is_not_read(encoder, name):
    encoder = encoder(name)
    with pytest.raises(InputError, match=r"field 'steps\[1\]' = .*contains the step mark"):
        encoder.encode("Q?", ["fine", f"a{encoder.mark.text}b"])
    ids, ends = encoder.encode(f"Q{encoder.mark.text}?", ["fine", "too"])
    assert len(ends) == 2 and ids.index(encoder.mark.token) < ends[0]


def test_decomposed_characters_shift_nothing(encoder):
    """Qwen's tokenizer composes them, so the text that is encoded is shorter than the one that was written."""
    encoder = encoder("qwen_math_prm")
    ids, ends = encoder.encode("Cafe\u0301s?", ["e\u0301" * 9, "e\u0301"])
    assert [index for index, token in enumerate(ids) if token == encoder.mark.token] == ends


def test_a_mark_that_its_step_swallows_is_refused(encoder, monkeypatch):
    encoder = encoder("versaprm")
    # In the published tokenizers blank lines at the end of a step merge with the tag; here the mark is given another id.
    monkeypatch.setattr(encoder, "mark", dataclasses.replace(encoder.mark, token=encoder.mark.token + 1))
    with pytest.raises(InputError, match=r"field 'steps\[0\]' = 'a\\n\\n': swallows its mark .*remove the white space"):
        encoder.encode("Q?", ["a\n\n", "b"])


def test_skywork_reads_a_step_at_its_last_line(encoder):
    encoder = encoder("skywork")
    ids, ends = encoder.encode("Q?", ["a\n\nb", "c"])
    newlines = [index for index, token in enumerate(ids) if token == encoder.newline]
    assert ends == newlines[-2:] and len(newlines) == 5  # behind the problem, three lines, one line


def test_reasoneval_7b_reads_one_token_early_unless_told_otherwise(encoder):
    published = encoder("reasoneval_7b").encode("Q?", ["one two", "three"])
    last = encoder("reasoneval_7b", Settings("last_token_of_step")).encode("Q?", ["one two", "three"])
    assert published[0] == last[0] and [end + 1 for end in published[1]] == last[1]
    assert last[1][-1] == len(last[0]) - 1


def test_prefixes_have_one_row_each(encoder):
    rows = encoder("universal_prm_assumed").encode_rows("Q?", ["a", "b", "c"], "42")
    assert [ends for _, ends in rows] == [[len(ids) - 1] for ids, _ in rows] and len(rows) == 3
    without = encoder("universal_prm_assumed").encode_rows("Q?", ["a"])
    assert rows[0][0] != without[0][0]
    solution = encoder("reasonflux_prm_15b")
    assert solution.encode("Q?", [])[1] == []
    assert solution.encode_rows("Q?", ["a", "b"])[1][0] == solution.tokenizer.encode("Q?a\n\nb")


def test_settings_are_read_or_refused(encoder):
    assert encoder("trl_qwen2", Settings(separator="#")).separator_ids == encoder("trl_qwen2").tokenizer.encode("#")
    with pytest.raises(InputError, match="field 'separator' = '': has no token"):
        encoder("trl_qwen2", Settings(separator=""))
    lines = encoder("actprm", Settings(separator=" \n\n"))
    ids, ends = lines.encode("Q?", ["a", "b"])
    assert [lines.tokenizer.decode([ids[end]]) for end in ends] == [" \n\n"] * 2
    swapped = encoder("openrlhf", Settings(columns=("-", "+")))
    assert swapped.columns == encoder("openrlhf").columns[::-1]
    with pytest.raises(InputError, match="field 'columns' = '12': the tokenizer splits it into"):
        encoder("openrlhf", Settings(columns=("+", "12")))
    with pytest.raises(InputError, match="the family skywork has a fixed one"):
        encoder("skywork", Settings(columns=("+", "-")))
    with pytest.raises(InputError, match=r"no such variant \(known: none\)"):
        encoder("skywork", Settings("mine"))


CERTAIN = {"qwen_math_prm", "skywork", "trl_qwen3", "trl_llama", "trl_gemma2", "pqm", "reasoneval_7b", "reasoneval_34b",
           "actprm", "eurus_prm", "implicit_prm_llama", "universal_prm_assumed", "reasonflux_prm_15b"}


def test_detection_is_right_or_lists_the_right_one(case, shared):
    settings = dataclasses.replace(case.settings, variant="", columns=None)
    if case.family not in ("trl", "openrlhf"):
        settings = dataclasses.replace(settings, separator=None)
    folder = case.folder(shared) / case.model
    try:
        opened = open_prm(folder, settings=settings, reference=case.reference is not None)
    except InputError as error:
        assert case.fixture not in CERTAIN
        assert "its files fit several families: " in error.message and case.family in error.message
        assert error.hint == "choose one with --family"
    else:
        assert opened.family.name == case.family and case.fixture in CERTAIN


def test_a_repository_with_folders_needs_no_more_than_its_name(shared, cases):
    folder = cases["pqm"].folder(shared)
    assert open_prm(folder).checkpoint.weights == folder / "zeta-2"
    assert open_prm(folder, settings=Settings("zeta-4")).checkpoint.weights == folder / "zeta-4"
    assert open_prm(folder / "zeta-4", base=folder / "backbone").checkpoint.config == folder / "backbone"
    adapter = open_prm(cases["openr_math_psa"].folder(shared), "openr").checkpoint
    assert adapter.adapter.name == "adapter" and (adapter.weights / "config.json").is_file()


def test_actprm_reads_its_mark_from_its_config(cases, shared, tmp_path):
    source = cases["actprm"].folder(shared)
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"rr_token": " \n\n"}))
    assert open_prm(source).encoder.mark.text == "<extra_0>"
    assert open_prm(tmp_path).encoder.mark.text == " \n\n"
    assert open_prm(tmp_path, settings=Settings(separator="<extra_0>")).encoder.mark.text == "<extra_0>"


def test_wrong_types_are_refused(cases, shared):
    with pytest.raises(InputError, match="field 'dtype' = 'float8': must be float32 or bfloat16"):
        load_prm(cases["skywork"].folder(shared), dtype="float8")
