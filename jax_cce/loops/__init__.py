"""Loops: derivatives accumulated over time from the Jacobians of the steps."""
