"""Published-family fixtures: where each checkpoint lies, with what settings, and the rows it must reproduce."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from jaxprm.hub.families import Settings


@dataclasses.dataclass(frozen=True)
class Case:
    """One set of rows.

    model, reference: folders below the fixture. variant: of the fixture, "" = its main rows.
    """

    fixture: str
    family: str
    model: str = "."
    reference: str | None = None
    settings: Settings = Settings()
    variant: str = ""

    def __str__(self) -> str:
        return self.fixture + (f"-{self.variant}" if self.variant else "")

    def folder(self, shared: Path) -> Path:
        return shared / "fixtures" / "hf" / "prm" / self.fixture

    def tokenizer(self, shared: Path) -> Path:
        return self.folder(shared) / TOKENIZERS.get(self.fixture, self.model)

    def expected(self, shared: Path) -> dict:
        return json.loads((self.folder(shared) / "expected.json").read_text(encoding="utf-8"))

    def rows(self, shared: Path) -> list[dict]:
        expected = self.expected(shared)
        if not self.variant:
            return expected["rows"]
        texts = {row["id"]: row for row in expected["rows"]}
        return [{"problem": texts[row["id"]]["problem"], "steps": texts[row["id"]]["steps"],
                 **{key: texts[row["id"]][key] for key in ("line_of_step_end",) if key in texts[row["id"]]}, **row}
                for row in expected["variants"][self.variant]["rows"]]


def separator(text: str) -> Settings:
    return Settings(separator=text)


CASES = [
    Case("qwen_math_prm", "qwen-math-prm"),
    Case("math_shepherd", "math-shepherd"),
    Case("math_shepherd", "math-shepherd", settings=Settings("prmbench"), variant="prmbench"),
    Case("rlhflow", "rlhflow"),
    Case("skywork", "skywork"),
    Case("trl_qwen2", "trl"),
    Case("trl_qwen3", "trl", settings=separator(" ки\n##")),
    Case("trl_llama", "trl", settings=separator("\n\n")),
    Case("trl_gemma2", "trl"),
    Case("pure", "pure"),
    Case("pure", "pure", settings=Settings("double_newline"), variant="double_newline"),
    Case("pqm", "pqm", "zeta-2"),
    Case("pqm", "pqm", "zeta-2", settings=Settings("with_bos"), variant="with_bos"),
    Case("pqm", "pqm", "zeta-2", settings=Settings("bon_eval_numbering"), variant="bon_eval_numbering"),
    Case("pqm", "pqm", "zeta-4", variant="zeta-4"),
    Case("reasoneval_7b", "reasoneval"),
    Case("reasoneval_34b", "reasoneval"),
    Case("openr_math_psa", "openr", "adapter"),
    Case("versaprm", "versaprm"),
    Case("er_prm", "er-prm"),
    Case("actprm", "actprm"),
    Case("actprm", "actprm", settings=Settings("code_snippet"), variant="code_snippet"),
    Case("eurus_prm", "implicit", "prm", "ref"),
    Case("eurus_prm", "implicit", "prm", "ref", Settings("model_card"), "model_card"),
    Case("implicit_prm_llama", "implicit", "prm", "ref"),
    Case("implicit_prm_llama", "implicit", "prm", "ref", Settings("processbench"), "processbench"),
    Case("openrlhf", "openrlhf"),
    Case("universal_prm_assumed", "universal-prm"),
    Case("reasonflux_prm_15b", "reasonflux"),
]

TOKENIZERS = {"pqm": "backbone", "openr_math_psa": "base"}
"""Where the tokenizer lies if not beside the weights."""


def pytest_generate_tests(metafunc):
    """Every test with an argument ``case`` runs on all of them."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", CASES, ids=str)


@pytest.fixture(scope="session")
def cases() -> dict[str, Case]:
    """By name, for test modules, which cannot import this file."""
    return {str(case): case for case in CASES}
