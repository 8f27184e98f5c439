"""Execution: from a request and a plan to values."""
