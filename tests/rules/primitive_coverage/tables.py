"""All rows of the coverage table."""

import table_lax
import table_lax_control
import table_nn_special_linalg
import table_numpy_arrays
import table_numpy_elementwise
import table_numpy_reductions
import table_transforms

__all__ = ["ABSENT", "NAMESPACES", "ROWS"]

_TABLES = (
    table_lax,
    table_lax_control,
    table_numpy_elementwise,
    table_numpy_arrays,
    table_numpy_reductions,
    table_nn_special_linalg,
    table_transforms,
)

ROWS = [row for table in _TABLES for row in table.rows]
ABSENT = [name for table in _TABLES for name in table.absent]

# Modules whose every public function is in the table or in `excluded.EXCLUDED`.
NAMESPACES = (
    "jax.lax",
    "jax.lax.linalg",
    "jax.numpy",
    "jax.numpy.fft",
    "jax.numpy.linalg",
    "jax.nn",
    "jax.scipy.special",
)
