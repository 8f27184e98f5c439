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
    random_functions,
    robot_arm,
    roe_flux,
    roe_flux_3d,
)
from benchmarks.tasks.task import Published, Task

__all__ = ["TASKS", "Published", "Task"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        roe_flux.TASK,
        robot_arm.TASK,
        heart_dipole.TASK,
        propane.TASK,
        greeks.TASK,
        roe_flux_3d.TASK,
        perceptron.TASK,
        encoder.TASK,
        random_functions.F,
        random_functions.G,
        bottleneck.TASK,
    )
}
