"""The registry of this process, as the environment describes it."""

import importlib.resources
import os
import pathlib
import re
import threading

from jax_cce.registry import stores
from jax_cce.registry.layers import Registry
from jax_cce.registry.listing import StoredOrders
from jax_cce.registry.ranking import Vertices
from jax_cce.registry.stored_order import StoredOrder

__all__ = [
    "default",
    "directory_beside",
    "entries",
    "export",
    "get",
    "import_",
    "prune",
    "put",
    "verify",
]


# The registry of this process.

_default: tuple[tuple[str | None, ...], Registry] | None = None
_default_lock = threading.Lock()


def default() -> Registry:
    """The registry that the environment describes, made at first use and when that changes.

    `JAX_CCE_REGISTRY` is the user's directory or URL; by default it lies in the platform's cache
    directory. `JAX_CCE_REGISTRY_SHARED` lists locations to read, separated like those in PATH.
    Entries that come with the package are the last layer. With `JAX_CCE_REGISTRY` empty or "off"
    there is none of all this, and orders are kept in memory alone.
    """
    global _default
    variables = tuple(map(os.environ.get, ("JAX_CCE_REGISTRY", "JAX_CCE_REGISTRY_SHARED")))
    with _default_lock:
        if _default is None or _default[0] != variables:
            location = _user_location()
            if location is None:
                _default = variables, Registry()
            else:
                shared = _split(variables[1] or "")
                _default = variables, Registry(location, shared, _shipped())
        return _default[1]


def _user_location() -> stores.Location | None:
    """The user's directory or URL; None where there is to be none."""
    import platformdirs

    user = os.environ.get("JAX_CCE_REGISTRY")
    if user in ("", "off"):
        return None
    return user or platformdirs.user_cache_path("jax_cce") / "registry"


def directory_beside(name: str) -> pathlib.Path | None:
    """A directory beside the user's registry; None where that is no directory of this machine."""
    location = _user_location()
    if location is None or "://" in str(location):
        return None
    path = pathlib.Path(location).expanduser().absolute()
    return path.with_name(f"{path.name}-{name}")


def _split(variable: str) -> list[str]:
    # The separator may be the colon of a URL's "://".
    return [each for each in re.split(rf"{re.escape(os.pathsep)}(?!//)", variable) if each]


def _shipped() -> pathlib.Path | None:
    directory = importlib.resources.files("jax_cce").joinpath("data", "registry")
    # In a zip archive it would be no path.
    return directory if isinstance(directory, pathlib.Path) else None


def get(
    key: str,
    cost: str | None = None,
    *,
    device: str | None = None,
    batch: int | None = None,
    vertices: Vertices | None = None,
) -> StoredOrder | None:
    """`Registry.get` of the default registry."""
    return default().get(key, cost, device=device, batch=batch, vertices=vertices)


def put(entry: StoredOrder) -> StoredOrder:
    """`Registry.put` of the default registry."""
    return default().put(entry)


def entries(*, key: str | None = None, cost: str | None = None) -> StoredOrders:
    """`Registry.entries` of the default registry."""
    return default().entries(key=key, cost=cost)


def export(path: stores.Location, *, key: str | None = None, cost: str | None = None) -> int:
    """`Registry.export` of the default registry."""
    return default().export(path, key=key, cost=cost)


def import_(path: stores.Location) -> int:
    """`Registry.import_` of the default registry."""
    return default().import_(path)


def prune(
    *,
    older_than_days: float | None = None,
    superseded: bool = True,
    damaged: bool = True,
    dry_run: bool = False,
) -> list[str]:
    """`Registry.prune` of the default registry."""
    return default().prune(
        older_than_days=older_than_days, superseded=superseded, damaged=damaged, dry_run=dry_run
    )


def verify() -> list[str]:
    """`Registry.verify` of the default registry."""
    return default().verify()
