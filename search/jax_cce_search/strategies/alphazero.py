"""A learned policy with a tree search, which goes on learning on the graph at hand.

Minimal Markowitz comes first, at next to no cost: what is there when the time is over is the
answer. Then the policy plays alone, then with the tree search, and then it is trained on games on
this one graph for as long as the budget lasts.

Source: see `jax_cce_search.alphazero`.
"""

import os
from typing import TYPE_CHECKING

import jax

from jax_cce_search.searching import Search
from jax_cce_search.strategies import greedy

if TYPE_CHECKING:
    from jax_cce_search.alphazero.network import PolicyValue

__all__ = [
    "POLICY",
    "policy",
    "search",
]

# Names the file of a policy to be used instead of the one that comes with the package.
POLICY = "JAX_CCE_POLICY"
# Of the search: moves tried in the tree for each move played, and moves considered at its root.
SIMULATIONS, CONSIDERED = 50, 16
# The largest graph that is played in full, and the largest that is searched.
_MOST_NODES, _MOST_SEARCHED = 3000, 600
# Seconds that compiling takes, about: what would end late is not begun.
_COMPILING_POLICY, _COMPILING_SEARCH = 2.0, 8.0


def search(state: Search) -> None:
    """Offers the orders of Markowitz, of the policy, and of games that it goes on learning from."""
    problem = state.problem
    with state.part(state.strategy, evaluations=1):
        greedy.markowitz(state)
    if len(problem.vertices) < 2 or len(problem.reduced.successors) > _MOST_NODES:
        return
    if not _has_time(state, _COMPILING_POLICY):
        return
    # The function whose order is searched may be under a trace, which all this is no part of.
    with jax.ensure_compile_time_eval():
        _play(state)


def _play(state: Search) -> None:
    # Equinox, mctx and optax are slow to import.
    from jax_cce_search.alphazero.encoding import Encoding
    from jax_cce_search.alphazero.playing import Greedy, Searched
    from jax_cce_search.alphazero.single import Player

    player = Player(state, Encoding(state.problem), policy())
    player.play(Greedy())
    if len(player.encoding.nodes) > _MOST_SEARCHED:
        return
    if _has_time(state, _COMPILING_SEARCH):
        player.play(Searched(SIMULATIONS, CONSIDERED))
    if _has_time(state, 2 * _COMPILING_SEARCH):
        player.train()


def policy() -> "PolicyValue":
    """The policy in the file that `JAX_CCE_POLICY` names, else the one that comes with the package.

    Raises:
        FileNotFoundError: where there is no such file.
        CheckpointError: where it is damaged, or does not fit this version.
    """
    from jax_cce_search.alphazero import checkpoints

    path = os.environ.get(POLICY)
    return checkpoints.load_policy(path) if path else checkpoints.pretrained()


def _has_time(state: Search, seconds: float) -> bool:
    limit = state.budget.seconds
    return not state.over() and (limit is None or state.seconds + seconds < limit)
