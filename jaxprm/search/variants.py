"""The published tree searches, by what they do differently."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from jaxprm.errors import InputError
from jaxprm.search.bounds import Bound, PuctAlphaMath, PuctOpenR, UctReSTMCTS, UctRStar, UctRStarMath

Follow = Literal["bound", "random", "best"]
TO_THE_END = -1


@dataclasses.dataclass(frozen=True)
class TreeVariant:
    """One simulation goes down from the prompt along the bound, expands the first node that has no children, goes on below it
    for some levels, and brings a value back.

    Attributes:
      bound: which child it goes to.
      levels: how far it goes below the node that it expanded first, expanding every node on the way; -1 = until the solution
        ends.
      follow: which child it goes to there: by the bound, a random one, or the best by value.
      first_visit: children start with one visit, worth their own value (else with none).
      normalised: a child's prior is the softmax of mean token log-probabilities over its siblings; else its own exp(mean).
      signed: values are 2 v - 1, so that what is probably wrong counts against a node.
      unfinished: what a solution brings back that had to stop without an end (no level left, no usable step); ``None`` = its
        own value.
      closes: a solution brings its value back as soon as it ends, and is then left out; so is a node with nothing left below.
      mix: ``None`` = a node's mean is that of all values brought back through it. Else the value of the best child first is
        mixed with the best value met below it, V (1 - mix) + best * mix, and a node's mean is that of its children, each
        weighted by its visits.
      enough: a problem's search ends when a simulation arrives at an ended solution worth at least this; ``None`` = never.
    """

    bound: Bound
    levels: int = TO_THE_END
    follow: Follow = "bound"
    first_visit: bool = False
    normalised: bool = False
    signed: bool = False
    unfinished: float | None = None
    closes: bool = False
    mix: float | None = None
    enough: float | None = None

    def __post_init__(self):
        if self.levels < TO_THE_END:
            raise InputError("must be -1 (to the end), 0 or more", field="levels", value=self.levels)
        if self.follow not in get_args(Follow):
            raise InputError(f"must be one of {', '.join(get_args(Follow))}", field="follow", value=self.follow)
        if self.mix is not None and not 0 <= self.mix <= 1:
            raise InputError("must be in [0, 1]", field="mix", value=self.mix)
        if self.mix is not None and (self.closes or self.first_visit):
            raise InputError("goes with neither closes nor first_visit", field="mix", value=self.mix,
                             hint="a mean of children counts visits of whole simulations")
        if self.closes and self.levels:
            raise InputError("goes with levels = 0: a simulation must stop at the node that it expands", field="closes",
                             value=self.closes)


VARIANTS: dict[str, TreeVariant] = {
    "puct_openr": TreeVariant(PuctOpenR(), normalised=True),
    "uct_rstar": TreeVariant(UctRStar(), follow="random", unfinished=0.0),
    "uct_rstar_math": TreeVariant(UctRStarMath(), first_visit=True, signed=True, unfinished=-1.0),
    "uct_rest_mcts": TreeVariant(UctReSTMCTS(), levels=4, follow="best", mix=0.5, enough=0.9),
    "puct_alphamath": TreeVariant(PuctAlphaMath(), levels=0, signed=True, unfinished=-1.0, closes=True),
}
"""By name. The value of a node is the reward model's; where the systems differ in what they do with it:

  puct_openr       OpenR, ``vanila_mcts``: every simulation goes to an end; unvisited children count with their own value.
  uct_rstar        rStar: below the first new node children are drawn at random; the reward is that of the end, 0 if there is
                   none. (rStar rewards by agreement of answers; here the reward model does. Children without visits are taken
                   in the order in which they were sampled, which is as good as at random.)
  uct_rstar_math   rStar-Math with its preference model: a child's own value is its first visit; ends are worth -1 to 1.
  uct_rest_mcts    ReST-MCTS*: looks ahead greedily for 3 levels below the best new child. (The steps of the look-ahead were
                   paid for, so here they stay in the tree; there they are thrown away. An unfinished solution never ends the
                   search.)
  puct_alphamath   AlphaMath: a simulation stops where it expands, and brings back that node's value and those of children that
                   have ended. The prompt, which no reward model scores, is worth 0.

Children that say the same are one child in all of them.
"""
