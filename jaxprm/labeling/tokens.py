"""Labels of single tokens: where inside a step its error first shows.

A step's label is one bit, and it does not say what is wrong. Where a verifier knows the step that should stand there, every
token of the step has a label of its own: is what the step says up to here still right? A model learns from few solutions to
compare each token with what it should be; scores are read at the step ends as ever, which are among these tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxprm.errors import InputError


def token_labels(written: Sequence[int], expected: Sequence[int] | None) -> list[float]:
    """1.0 for the tokens of a step up to where it departs from the expected one, 0.0 from there on.

    Args:
      written: token ids of the step, with its separator.
      expected: token ids of the only right step in this place, with the separator; ``None`` if no step belongs there.

      In:   written [1, +, 2, =, 4, ;], expected [1, +, 2, =, 3, ;]
      Out:          [1, 1, 1, 1, 0, 0]
    """
    if not len(written):
        raise InputError("has no token", field="written")
    same = 0
    if expected is not None:
        while same < min(len(written), len(expected)) and written[same] == expected[same]:
            same += 1
    return [1.0] * same + [0.0] * (len(written) - same)
