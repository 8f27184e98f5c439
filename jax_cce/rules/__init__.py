"""Rules: the local Jacobian of each primitive.

One module for each family of primitives (elementwise, layout, contraction, indexing;
structural_zeros, convolution, control and scans serve the sparse formats). `definers` holds what
they are written with, `linearised` is the default, and `derivatives` finds the rule for an
equation.
"""
