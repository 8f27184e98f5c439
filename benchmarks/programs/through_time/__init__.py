"""Programs that go through time: what `python -m benchmarks.time` measures."""

from benchmarks.programs.through_time import iterations, series, trajectories
from benchmarks.programs.through_time.case import Case

__all__ = ["CASES", "LENGTHS", "LONG", "Case"]

CASES = (*trajectories.CASES, *series.CASES, *iterations.CASES)

# Those whose memory is asked for 10,000 steps; jax.checkpoint can go around a step of them.
LONG = (trajectories.LOTKA_VOLTERRA, trajectories.QUADROTOR, series.KALMAN, iterations.GRU_LOSS)

# Those whose building is timed at many lengths.
LENGTHS = (trajectories.LOTKA_VOLTERRA, trajectories.EPIDEMIC, series.KALMAN)
