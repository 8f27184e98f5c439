"""Our Jacobians against products that JAX computes, for any function at any size."""
