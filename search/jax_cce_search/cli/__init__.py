"""The command line, `jax-cce`."""
