"""Every strategy at a size N: about what N independent samples cost. One setting each, from its paper or our default.

What a size means, where M = min(4, N) steps are drawn behind a kept path (search-and-learn) and W = N / M paths are kept:

    greedy                  N candidates per step, the best one is taken
    beam, and around it     W x M; lookahead: 1 greedy step; value-guided: the newest score alone (OVM); early rejection:
                            after half of the most tokens of a step a quarter goes on
    DVTS                    W subtrees of M
    REBASE                  N paths, temperature 0.2
    particle                N particles, temperature 1
    entropy branching       N paths, 2 branches above 1 nat
    tree (five variants)    2 N expansions of 4 children, so that at N = 4 the longest solution can end; as many simulations
    chunk reset, refine     N / 2 chains; 4 tries below 0.5; 2 rounds
    PATS, dual phase        N / 2, N or 2 N candidates; N candidates in four batches
"""

from __future__ import annotations

from jaxprm.search import (DVTS, VARIANTS, Beam, ChunkReset, DualPhase, EarlyRejection, EntropyBranching, Greedy,
                           Lookahead, NodeStrategy, Particle, Pats, Rebase, Refine, Strategy, Tree, ValueGuided)

PLAN = ((16, "trained", "level"), (16, "oracle", "level"), (16, "trained", "node"), (4, "trained", "level"),
        (4, "trained", "node"), (16, "random", "level"), (4, "oracle", "level"), (64, "trained", "level"),
        (16, "oracle", "node"), (64, "trained", "node"), (64, "oracle", "level"), (16, "random", "node"), (4, "oracle", "node"),
        (4, "random", "level"), (4, "random", "node"), (64, "oracle", "node"))
"""Size, reward model and kind of strategy, those that say most first."""
SIZES = tuple(sorted({size for size, _, _ in PLAN}))


def level_strategies(size: int, step_tokens: int) -> dict[str, Strategy]:
    """Strategies that work level by level."""
    branch = min(4, size)
    beam = Beam(size // branch, branch)
    return {"greedy": Greedy(size), "beam": beam, "DVTS": DVTS(size // branch, Beam(1, branch)),
            "REBASE": Rebase(size), "particle": Particle(size), "lookahead": Lookahead(beam), "value-guided": ValueGuided(beam),
            "early rejection": EarlyRejection(beam, tokens=step_tokens // 2), "entropy branching": EntropyBranching(size)}


def node_strategies(size: int) -> dict[str, NodeStrategy]:
    """Strategies that go back to earlier steps."""
    trees = {f"tree {name}": Tree(name, simulations=2 * size, expansions=2 * size, branch=4) for name in VARIANTS}
    return trees | {"chunk reset": ChunkReset(chains=size // 2), "refine": Refine(chains=size // 2),
                    "PATS": Pats(widths=(size // 2, size, 2 * size)), "dual phase": DualPhase(samples=size, batch=size // 4)}
