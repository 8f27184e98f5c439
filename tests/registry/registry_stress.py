"""Many processes write and read one registry while a killer ends them at random moments.

    python tests/registry/registry_stress.py --seconds 60 --processes 8 --keys 1000

Every result that a `put` reported as stored must survive, as itself or as a better one, and every
`get` must return an entry that was put for that key. An entry proves itself: its order is a
permutation that only its key and value give.
"""

import argparse
import contextlib
import hashlib
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_VERTICES = range(12)
_LARGEST = 10**9


class Counts(NamedTuple):
    puts: int
    kept: int
    gets: int
    kills: int
    keys: int
    left_temporaries: int


def registry_module() -> Any:
    """`jax_cce.registry`; a worker gets it without the package's own imports, which take seconds.

    A process that has imported jax_cce keeps what it has.
    """
    if "jax_cce" not in sys.modules:
        package = types.ModuleType("jax_cce")
        package.__path__ = [str(_ROOT / "jax_cce")]
        sys.modules["jax_cce"] = package
    import jax_cce.registry

    return jax_cce.registry


def key_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def order_of(key: str, value: int) -> tuple[int, ...]:
    order = [*_VERTICES]
    random.Random(f"{key}{value}").shuffle(order)
    return tuple(order)


def is_right(entry: Any, key: str) -> bool:
    return (
        entry.key == key
        and entry.cost == "flops"
        and entry.value == int(entry.value)
        and entry.order == order_of(key, int(entry.value))
    )


def work(root: str, log: str, number_of_keys: int, start: float, seconds: float) -> None:
    """Puts and gets until the time is up; raises at the first wrong answer."""
    registry = registry_module()
    # A warning would be of a damaged file or of a failed write, and there must be none.
    warnings.simplefilter("error")
    writer = registry.Registry(root)
    known: dict[str, float] = {}
    with open(log, "ab", buffering=0) as file:
        while (passed := time.time() - start) < seconds:
            key = key_of(random.randrange(number_of_keys))
            if random.random() < 0.5:
                # Values fall with time, so that new results replace old ones until the end.
                value = int(_LARGEST * max(0.0, 1 - passed / seconds))
                value += random.randrange(_LARGEST // 20)
                entry = registry.StoredOrder(key, "flops", order_of(key, value), value)
                stored = writer.put(entry)
                assert is_right(stored, key), stored
                assert stored.value <= value, (stored, value)
                known[key] = min(stored.value, known.get(key, math.inf))
                verb = "put" if stored.value == value else "kept"
                file.write(f"{verb} {key} {stored.value}\n".encode())
                os.fsync(file.fileno())
            else:
                # A new registry each time: an old one would answer from memory.
                found = registry.Registry(root).get(key, "flops", vertices=_VERTICES)
                assert (found is None) <= (key not in known), f"{key} was lost"
                assert found is None or is_right(found, key), found
                assert found is None or found.value <= known.get(key, math.inf), found
                file.write(b"get\n")


def stress(root: pathlib.Path, seconds: float, processes: int, keys: int) -> Counts:
    """Runs the workers and the killer, checks the registry at the end, returns what happened."""
    registry_module()
    store, logs = root / "registry", root / "logs"
    logs.mkdir(parents=True)
    start = time.time()
    started: list[subprocess.Popen[bytes]] = []

    def worker() -> subprocess.Popen[bytes]:
        log = logs / f"{len(started)}.log"
        values = map(str, (store, log, keys, start, seconds))
        with open(log.with_suffix(".err"), "wb") as errors:
            process = subprocess.Popen(
                [sys.executable, __file__, "--worker", *values], stderr=errors
            )
        started.append(process)
        return process

    running, kills = [worker() for _ in range(processes)], 0
    while time.time() - start < seconds - 0.5:
        time.sleep(random.uniform(0.05, 0.5))
        victim = random.randrange(processes)
        if running[victim].poll() is None:
            running[victim].send_signal(signal.SIGKILL)
            kills += running[victim].wait() == -signal.SIGKILL
        running[victim] = worker()
    for process in started:
        process.wait(seconds + 60)
    for number, process in enumerate(started):
        errors = (logs / f"{number}.err").read_text()
        assert process.returncode in (0, -signal.SIGKILL), errors
        assert process.returncode or not errors, errors
    return _checked(store, logs, kills)


def _checked(store: pathlib.Path, logs: pathlib.Path, kills: int) -> Counts:
    registry = registry_module()
    best: dict[str, float] = {}
    verbs = {"put": 0, "kept": 0, "get": 0}
    for verb, *result in _lines(logs):
        verbs[verb] += 1
        if result:
            key, value = result[0], float(result[1])
            best[key] = min(value, best.get(key, math.inf))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader = registry.Registry(store)
        for key, value in best.items():
            found = reader.get(key, "flops", vertices=_VERTICES)
            assert found is not None, f"{key} was lost"
            assert is_right(found, key), found
            assert found.value <= value, f"{key}: {value} was committed, {found.value} is stored"
        assert reader.verify() == []
        temporaries = [*store.glob("*/.tmp-*")]
        # None of them is old enough to be removed, and what is superseded is not needed.
        reader.prune()
        assert [*store.glob("*/.tmp-*")] == temporaries
        after = registry.Registry(store)
        entries = {entry.key: entry.value for entry in after.entries()}
        assert all(entries[key] <= value for key, value in best.items())
        assert len([*store.glob("*/*.json")]) == len(entries)
    return Counts(verbs["put"], verbs["kept"], verbs["get"], kills, len(entries), len(temporaries))


def _lines(logs: pathlib.Path) -> Iterator[list[str]]:
    for log in logs.glob("*.log"):
        # The last piece is empty, or the line that a killed worker was writing.
        for line in log.read_text().split("\n")[:-1]:
            yield line.split()


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        root, log, keys, start, seconds = sys.argv[2:]
        work(root, log, int(keys), float(start), float(seconds))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--keys", type=int, default=1000)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        counts = stress(root, arguments.seconds, arguments.processes, arguments.keys)
    print(", ".join(f"{name} {value}" for name, value in counts._asdict().items()))


if __name__ == "__main__":
    main()
