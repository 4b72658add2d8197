"""Wrong countdown steps on purpose, each followed by a continuation that believes in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from jaxprm.tasks.base import Stream
from jaxprm.tasks.countdown_solver import Move, State, Value, calculate, moves, reachable, solve
from jaxprm.tasks.countdown_text import Style, evaluate, render_claim, render_expression, render_move

# The class of PRMBench that each kind matches, as in `jaxprm.tasks.corruptions`; None: true, but it leads nowhere.
PRMBENCH_CLASSES = {
    "wrong_operator": "domain_inconsistency",
    "wrong_result": "counterfactual",
    "off_by_one": "deception",
    "swapped_operand": "counterfactual",
    "dropped_step": "missing_condition",
    "repeated_step": "redundency",
    "wrong_carry": "step_contradiction",       # a number left over is copied wrongly
    "forgotten_number": "missing_condition",   # a number left over is not copied
    "dead_end": None,                          # true arithmetic after which the target is out of reach
    "wrong_answer": "step_contradiction",
}

KINDS = tuple(PRMBENCH_CLASSES)


class Ledger(NamedTuple):
    """The numbers that a solution says are left, in ascending order, and how it came by each of them."""

    state: State
    expressions: tuple[str, ...]

    @staticmethod
    def start(numbers: State) -> Ledger:
        """The given numbers."""
        return Ledger(numbers, tuple(map(str, numbers)))

    def after(self, move: Move) -> Ledger:
        """The ledger after a move as written, true or not: a number that comes from nowhere stands for itself."""
        known: dict[Value, list[str]] = {}
        for value, expression in zip(self.state, self.expressions, strict=True):
            known.setdefault(value, []).append(expression)

        def take(value: Value) -> str:
            return known[value].pop() if known.get(value) else str(value)

        left, right = take(move.left), take(move.right)
        known.setdefault(move.result, []).append(f"({left} {move.operator} {right})")
        return Ledger(move.remaining, tuple(take(value) for value in move.remaining))

    def expression(self) -> str:
        """How the last number was made, without outer parentheses."""
        text = self.expressions[0]
        return text[1:-1] if text.startswith("(") else text

    def answer(self, style: Style) -> str:
        """The text of the answer that follows from the last number left."""
        return render_expression(self.expression(), self.state[0], style)


def _plain(state: State) -> list[Move]:
    """Moves whose result is a whole number of at least 0; all moves where there are none."""
    everything = list(moves(state))
    return [move for move in everything if isinstance(move.result, int) and move.result >= 0] or everything


def continue_from(stream: Stream, ledger: Ledger, target: int, style: Style) -> tuple[str, ...]:
    """Steps to the target where the numbers left allow it, else any steps down to one number; then the answer."""
    lines = []
    while len(ledger.state) > 1:
        path = solve(ledger.state, target)
        move = path[0] if path else stream.choice(_plain(ledger.state))
        lines.append(render_move(move, style))
        ledger = ledger.after(move)
    return (*lines, render_claim(ledger.answer(style), style))


def _replace(move: Move, operator: str | None = None, result: Value | None = None) -> Move:
    """The move with another operator or result written, its books kept consistently with the written result."""
    rest = list(move.remaining)
    rest.remove(move.result)
    result = move.result if result is None else result
    return Move(move.left, operator or move.operator, move.right, result, tuple(sorted([*rest, result])))


def plantings(kind: str, target: int, ledger: Ledger, before: Sequence[Move], planned: Move | None,
              style: Style) -> list[tuple[tuple[str, ...], Ledger | None]]:
    """The ways to make an error of this kind instead of the ``planned`` move.

    Returns:
      (lines written, ledger to go on from or ``None`` if the solution is over) per way; empty where the kind does
      not apply.
    """
    def written(*alternatives: Move):
        return [((render_move(move, style),), ledger.after(move)) for move in alternatives]

    if kind == "repeated_step":
        return [((render_move(before[-1], style),), ledger)] if before else []
    if kind == "wrong_answer":
        if len(ledger.state) > 1:
            return []
        text, options = ledger.expression(), []
        for match in re.finditer(r"(?<= )[-+*/](?= )", text):
            for other in "+-*/":
                changed = text[:match.start()] + other + text[match.end():]
                if evaluate(changed)[0] not in (None, evaluate(text)[0]):
                    answer = render_expression(changed, ledger.state[0], style)
                    options.append(((render_claim(answer, style),), None))
        return options
    if kind == "dead_end":
        return written(*[move for move in _plain(ledger.state) if not reachable(move.remaining, target)])
    if planned is None:
        return []
    left, operator, right, result, remaining = planned
    others = [other for other in "+-*/" if other != operator]
    outcomes = {other: calculate(left, other, right) for other in others}
    if kind == "wrong_operator":
        return written(*[_replace(planned, operator=other) for other in others
                         if outcomes[other] not in (None, result)])
    if kind == "wrong_result":
        return written(*[_replace(planned, result=value) for value in dict.fromkeys(outcomes.values())
                         if isinstance(value, int) and value >= 0 and value != result])
    if kind == "off_by_one":
        return written(*[_replace(planned, result=result + shift) for shift in (1, -1) if result + shift >= 0])
    if kind == "swapped_operand":
        if calculate(right, operator, left) == result:
            return []
        return written(Move(right, operator, left, result, remaining))
    if kind == "dropped_step":
        return [((), ledger.after(planned))]
    spare = list(remaining)
    spare.remove(result)
    options = []
    for value in dict.fromkeys(spare):
        kept = list(remaining)
        kept.remove(value)
        if kind == "forgotten_number":
            options.append(tuple(kept))
        elif kind == "wrong_carry":
            options += [tuple(sorted([*kept, value + shift])) for shift in (1, -1) if value + shift >= 0]
    return written(*[Move(left, operator, right, result, option) for option in options])
