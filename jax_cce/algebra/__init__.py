"""The algebra of local Jacobians: terms, their composition, and the steps that compute them."""
