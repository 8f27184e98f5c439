"""Warnings of the registry, each once in a process."""

import threading
import warnings

from jax_cce.registry import stores

__all__ = [
    "RegistryWarning",
    "reason",
    "warn_file",
    "warn_once",
    "warn_unreadable",
]

_ADVICE = (
    "It is ignored. `jax-cce registry verify` lists all such files, `jax-cce registry prune` "
    "removes the damaged ones from your own registry."
)


class RegistryWarning(UserWarning):
    """Something in the registry could not be read, trusted or written, and was left out."""


# Warnings, each once in a process: a look-up runs for every function that is differentiated.

_warned: set[object] = set()
_warned_lock = threading.Lock()


def warn_once(about: object, message: str) -> None:
    """Warns of something, once in a process."""
    with _warned_lock:
        if about in _warned:
            return
        _warned.add(about)
    warnings.warn(message, RegistryWarning, stacklevel=3)


def warn_file(path: str, problem: object) -> None:
    """Warns of a file that is ignored."""
    warn_once(("file", path), f"{path}: {str(problem).rstrip('.')}. {_ADVICE}")


def warn_unreadable(store: stores.Store, error: OSError) -> None:
    """Warns of a location that could not be read."""
    warn_once(
        ("read", store.location),
        f"{store.location}: this registry could not be read ({reason(error)}), so its entries are "
        "not used. Mend it, or change JAX_CCE_REGISTRY or JAX_CCE_REGISTRY_SHARED.",
    )


def reason(error: OSError) -> str:
    """What the operating system says."""
    return error.strerror or str(error)
