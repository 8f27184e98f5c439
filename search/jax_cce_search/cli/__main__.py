"""`python -m jax_cce_search.cli`."""

import sys

from jax_cce_search.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
