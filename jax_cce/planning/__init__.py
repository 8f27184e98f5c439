"""Planning: which order a Jacobian is computed in, and the plan that carries it out."""
