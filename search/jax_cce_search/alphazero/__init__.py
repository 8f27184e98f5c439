"""AlphaZero for elimination orders: a learned policy with a tree search on the true game.

`vertex_game` is the game, `encoding` brings graphs into it, `network` is the policy and the value,
`playing` the tree search, `graphs` and `families` the graphs to learn from, `self_play` and `ppo`
two ways of learning, `trainer` a training run, and `trials` what a policy is worth.
`jax_cce_search.strategies.alphazero` uses the policy, and trains it further, on one graph.

Source: Silver et al., "A general reinforcement learning algorithm that masters chess, shogi, and Go
through self-play" (2018); Lohoff & Neftci, "Optimizing automatic differentiation with deep
reinforcement learning" (2024), for the game.
"""
