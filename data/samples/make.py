"""Writes arithmetic.jsonl: 40 step-labelled solutions of the embedded task, right and wrong ones.

    python data/samples/make.py
"""

from pathlib import Path

from jaxprm.labeling import VerifierLabeler
from jaxprm.pipelines.quickstart import MISCONCEPTIONS, Quickstart
from jaxprm.records import LabeledSolution, write_solutions
from jaxprm.tasks.misconceptions import derive

task = Quickstart().task
labeler = VerifierLabeler(task, "local")
items = []
for place in range(40):
    problem = task.sample((2026, place))
    solution = derive((2026, place), problem, MISCONCEPTIONS).solution
    items.append(LabeledSolution(f"sample/{place}", solution, *labeler(None, [problem], [solution])))
write_solutions(Path(__file__).with_name("arithmetic.jsonl"), items)
