"""Reading a store of the registry: what is valid in it, and what is wrong with the rest."""

from jax_cce.registry import stores
from jax_cce.registry.reports import reason, warn_file
from jax_cce.registry.stored_order import FILE_NAME, DamagedError, NewerError, StoredOrder
from jax_cce.registry.stores import load

__all__ = ["readable", "surveyed"]

# A writer may remove a file between a reader's listing and its opening; then the reader lists anew.
_MOST_LISTINGS = 8
_STALE_SECONDS = 3600.0


def readable(
    store: stores.Store, prefix: str, key: str | None, cost: str | None
) -> list[tuple[str, StoredOrder]]:
    """The valid entries in a subdirectory; files that are none are reported and left out."""
    entries: list[tuple[str, StoredOrder]] = []
    for _ in range(_MOST_LISTINGS):
        entries.clear()
        gone = False
        for name in store.names(prefix):
            match = FILE_NAME.fullmatch(name)
            if not match or key not in (None, match[1]) or cost not in (None, match[2]):
                continue
            try:
                entries.append((name, load(store, name)))
            except FileNotFoundError:
                # A better one has replaced it, which this listing may not show.
                gone = True
            except OSError as error:
                warn_file(store.path(name), f"it could not be read ({reason(error)})")
            except (DamagedError, NewerError) as error:
                warn_file(store.path(name), error)
        if not gone:
            break
    return entries


def surveyed(
    store: stores.Store,
) -> tuple[list[str], list[tuple[str, StoredOrder | Exception]]]:
    """Stale temporary files, and every other file with its entry or what is wrong with it."""
    stale: list[str] = []
    files: list[tuple[str, StoredOrder | Exception]] = []
    names = [name for prefix in store.prefixes() for name in store.names(prefix)]
    for name in names:
        try:
            if stores.is_temporary(name):
                stale += [name] if store.age(name) > _STALE_SECONDS else []
            elif FILE_NAME.fullmatch(name):
                files.append((name, load(store, name)))
            # Network file systems and desktops leave hidden files about.
            elif "/." not in name:
                files.append((name, ValueError("its name is not that of an entry")))
        except FileNotFoundError:
            # Another process removed it meanwhile.
            continue
        except (OSError, DamagedError, NewerError) as error:
            files.append((name, error))
    return stale, files
