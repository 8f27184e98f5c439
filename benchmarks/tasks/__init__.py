"""The reference tasks, written from their mathematics, by name.

Each function traces to one equation for each operation as it is written: sums and products from
left to right, and a subexpression that is written twice is computed twice. The published operation
counts are those of exactly that graph.
"""

from benchmarks.tasks import (
    bottleneck,
    encoder,
    greeks,
    heart_dipole,
    perceptron,
    propane,
    robot_arm,
    roe_flux,
    roe_flux_3d,
)
from benchmarks.tasks.task import Published, Task

__all__ = ["TASKS", "Published", "Task"]

TASKS: dict[str, Task] = {
    module.TASK.name: module.TASK
    for module in (
        roe_flux,
        robot_arm,
        heart_dipole,
        propane,
        greeks,
        roe_flux_3d,
        perceptron,
        encoder,
        bottleneck,
    )
}
