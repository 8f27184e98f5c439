"""The graph of a program: its local Jacobians as edges, and their elimination."""
