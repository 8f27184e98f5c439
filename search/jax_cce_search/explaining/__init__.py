"""Explaining: how a Jacobian is computed, what it costs and why."""
