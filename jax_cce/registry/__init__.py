"""The registry: elimination orders that were found once, kept on disk for every later process.

A stored order is one small JSON file, `<key[:2]>/<key>.<cost>.<digest>.json`. The digest is of the
content, so two writers never overwrite each other's result: a reader takes the best of what is
there, and a writer removes only what is worse than a result that is safely on the disk. Nothing in
a file is trusted: what is damaged or foreign is reported once, ignored, and never fatal.
"""

from jax_cce.registry.defaults import default, entries, export, get, import_, prune, put, verify
from jax_cce.registry.layers import Registry
from jax_cce.registry.listing import StoredOrders
from jax_cce.registry.reports import RegistryWarning
from jax_cce.registry.stored_order import SCHEMA, StoredOrder

# By their former names.
Entry = StoredOrder
list = entries

__all__ = [
    "SCHEMA",
    "Entry",
    "Registry",
    "RegistryWarning",
    "StoredOrder",
    "StoredOrders",
    "default",
    "entries",
    "export",
    "get",
    "import_",
    "list",
    "prune",
    "put",
    "verify",
]
