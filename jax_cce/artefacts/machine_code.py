"""The machine code of an artefact, which only the same kind of machine runs.

It is what `jax_cce` keeps on disk for its own processes: relocatable code of one kernel each, for
the processor that compiled it. So it is refused wherever anything that it depends on differs.
"""

from collections.abc import Mapping
from typing import Any

from jax_cce.artefacts.container import ArtefactError
from jax_cce.native import compiling

__all__ = ["PREFIX", "conditions", "register"]

PREFIX = "native/"


def conditions(version: str) -> dict[str, Any]:
    """What has to be alike where machine code is compiled and where it runs.

    Args:
        version: the version of jax_cce.
    """
    return {
        "jax_cce": version,
        "processor": compiling.target(),
        "foreign function interface": compiling.minor_version(),
    }


def register(needed: Mapping[str, Any], code: Mapping[str, bytes], version: str, name: str) -> None:
    """Makes kernels known to XLA.

    Args:
        needed: the conditions where they were compiled.
        code: the code of each kernel, by name.
        version: the version of jax_cce here.
        name: what the artefact is called, for people.

    Raises:
        ArtefactError: where one of the conditions differs.
    """
    anew = "Compile it here, or without native=True, which runs everywhere."
    if obstacle := compiling.machine().obstacle:
        raise ArtefactError(f"{name} has machine code, and there is none here: {obstacle}. {anew}")
    here = conditions(version)
    for what, value in needed.items():
        if here.get(what) != value:
            raise ArtefactError(
                f"{name} has machine code for {what} {value!r}, but here it is {here.get(what)!r}. "
                f"{anew}"
            )
    for kernel, content in code.items():
        compiling.adopt(kernel, content)
