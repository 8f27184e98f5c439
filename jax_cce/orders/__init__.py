"""Elimination orders: the named ones, greedy ones, and the skeleton on which they are priced."""
