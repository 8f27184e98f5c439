"""The game of eliminating vertices, compiled: states, moves, bounds and reductions."""
