"""Flat programs: from a call to a numbered list of equations, and what is known of it."""
