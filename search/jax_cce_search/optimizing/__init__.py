"""Optimizing: searching for the best order of a function, and storing it."""
