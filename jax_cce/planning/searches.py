"""The package of order searches, which is found by its entry point and never imported by name."""

import functools
import importlib.metadata
from typing import Any

__all__ = [
    "search_package",
]


@functools.cache
def search_package() -> Any:
    """The package of order searches, found by its entry point.

    Raises:
        ImportError: where it is not installed.
    """
    for point in importlib.metadata.entry_points(group="jax_cce.search"):
        return point.load()
    raise ImportError(
        "The order searches of jax_cce were not found: they come with the distribution "
        "jax-cross-country. Install that anew, as it was installed: pip install --force-reinstall "
        "with the path of your clone, or the name of your distribution file."
    )
