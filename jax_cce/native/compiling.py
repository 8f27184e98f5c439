"""Machine code for the text of a kernel, and its registration as a foreign function of XLA.

LLVM comes with llvmlite, vectors of transcendental functions with the GNU C library on x86. Where
something is missing, `machine` says so and XLA does the work. A handler lives as long as the
process: XLA has no way to give one back, and compiled programs refer to it by its name, which is a
digest of its text, the same in every process.
"""

import contextlib
import contextvars
import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jax_cce.native import objects, threads
from jax_cce.native.nodes import Unsupported
from jax_cce.native.objects import compiled_once

__all__ = [
    "Machine",
    "adopt",
    "assembly",
    "collecting",
    "compiler",
    "machine",
    "minor_version",
    "registered",
    "registered_again",
    "target",
]

VARIABLE = "JAX_CCE_NATIVE"
# The letters of vector instructions in the names of the vector library, by bytes of a register.
_LIBRARIES = {64: "e", 32: "d"}
_PREFIX = "jax_cce_"
_HEADER = "xla/ffi/api/c_api.h"


@dataclass(frozen=True)
class Machine:
    """What kernels are compiled for.

    Attributes:
        bytes: of a vector register; 0 where there are no vectors for many points.
        obstacle: why there is no native code at all; "" where there is.
    """

    bytes: int = 0
    obstacle: str = ""

    def lanes(self, dtype: Any) -> int:
        """The numbers of a type in a vector register."""
        return self.bytes // np.dtype(dtype).itemsize

    @property
    def library(self) -> str:
        """The letter of the vector instructions in the names of the vector library."""
        return _LIBRARIES.get(self.bytes, "")


def machine() -> Machine:
    """The machine of this process, unless the environment switches native code off."""
    if os.environ.get(VARIABLE, "").lower() in ("0", "off", "false"):
        return Machine(obstacle=f"{VARIABLE} switches it off")
    return _machine()


@functools.cache
def _machine() -> Machine:
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        return Machine(obstacle=f"{platform.system()} on {platform.machine()} is not supported")
    try:
        import llvmlite.binding as llvm

        minor_version()
        with _lock:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            for library in ("libm.so.6", "libc.so.6"):
                llvm.load_library_permanently(library)
            features = llvm.get_host_cpu_features()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return Machine(obstacle=f"LLVM is not to be had: {error}")
    try:
        with _lock:
            llvm.load_library_permanently("libmvec.so.1")
    except RuntimeError:
        return Machine()
    sizes = ((64, "avx512f"), (32, "avx2"))
    return Machine(next((size for size, feature in sizes if features.get(feature)), 0))


@functools.cache
def minor_version() -> int:
    """The minor version of XLA's foreign function interface, from its own header.

    Raises:
        ValueError: where the header does not say.
    """
    header = pathlib.Path(jax.ffi.include_dir(), _HEADER).read_text(encoding="utf-8")
    major, minor = (
        re.search(rf"#define XLA_FFI_API_{part} (\d+)", header) for part in ("MAJOR", "MINOR")
    )
    if major is None or minor is None or int(major[1]) != 0:
        raise ValueError(f"{_HEADER} names no version that is known here")
    return int(minor[1])


def has_function(name: str) -> bool:
    """Whether the mathematical library or its vectors have a function."""
    import llvmlite.binding as llvm

    return llvm.address_of_symbol(name) is not None


# What is called may not be freed, and LLVM's contexts are not for several threads at once.
_lock = threading.RLock()
_engines: dict[str, Any] = {}
# Each takes two maps of memory, of which Linux gives a process 65,530.
_MOST_KERNELS = 10_000
# A process that forks waits for what is being compiled: its child has no thread to end that, nor
# to give the lock back.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def registered(text: str, *, quickly: bool) -> str:
    """The name under which XLA finds the handler of a module, compiled when it is new.

    Args:
        text: the module, in LLVM's intermediate representation.
        quickly: whether time to compile counts for more than time to run.

    Raises:
        Unsupported: where the process holds as many kernels as it may.
    """
    level = 0 if quickly else 2
    name = _PREFIX + _digest(f"{compiler()} {level} {text}")
    collected = _collected.get()
    with _lock:
        if name not in _engines or (collected is not None and name not in collected):
            code = compiled_once(name, lambda: _compiled(text, level))
            _keep(name, code)
    return name


def registered_again(name: str) -> bool:
    """Whether XLA finds a handler, which an earlier process has compiled, under its name."""
    collected = _collected.get()
    with _lock:
        if name not in _engines or (collected is not None and name not in collected):
            code = objects.read(name)
            if code is None:
                return False
            _keep(name, code)
    return True


# The code of all kernels that are asked for; None where nobody wants to have it.
_collected: contextvars.ContextVar[dict[str, bytes] | None] = contextvars.ContextVar(
    "collected", default=None
)


@contextlib.contextmanager
def collecting() -> Iterator[dict[str, bytes]]:
    """A context in which the code of every kernel that is asked for is kept, by name."""
    collected: dict[str, bytes] = {}
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)


def adopt(name: str, code: bytes) -> None:
    """Registers a kernel that another process has compiled for the same `target`.

    Args:
        name: its name there.
        code: its object code, as `collecting` has it.
    """
    with _lock:
        _keep(name, code)


def _keep(name: str, code: bytes) -> None:
    if name not in _engines:
        _register(name, code)
    collected = _collected.get()
    if collected is not None:
        collected[name] = code


def _register(name: str, code: bytes) -> None:
    if len(_engines) >= _MOST_KERNELS:
        raise Unsupported(f"this process holds {_MOST_KERNELS} kernels, and frees none")
    if threads.SHARE.encode() in code:
        _load_support()
    engine = _loaded(code)
    address = ctypes.c_void_p(engine.get_function_address("handler"))
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")
    _engines[name] = engine


@functools.cache
def _load_support() -> None:
    """Makes what all kernels have in common known to LLVM."""
    import llvmlite.binding as llvm

    text = threads.support()
    name = _digest(f"{compiler()} {text}")
    engine = _loaded(compiled_once(name, lambda: _compiled(text, 2)))
    for name in (threads.THREADS, threads.SHARE):
        llvm.add_symbol(name, engine.get_function_address(name))
    _engines["support"] = engine


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@functools.cache
def compiler() -> str:
    """What machine code depends on beside the text."""
    import llvmlite
    import llvmlite.binding as llvm

    versions = llvmlite.__version__, llvm.llvm_version_info
    return f"{versions} {target()}"


@functools.cache
def target() -> str:
    """What machine code runs on: system, processor and all of its features."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features().flatten()
    return f"{llvm.get_default_triple()} {llvm.get_host_cpu_name()} {features}"


def _machine_of(level: int) -> Any:
    import llvmlite.binding as llvm

    return llvm.Target.from_default_triple().create_target_machine(
        opt=level, cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten()
    )


def _compiled(text: str, level: int) -> bytes:
    """The object code of a module."""
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(text)
    module.verify()
    # The graph is simplified already: passes over the module would find nothing.
    return _machine_of(level).emit_object(module)


def assembly(text: str, *, quickly: bool = False) -> str:
    """The assembly of a module, with LLVM's comments, to be looked at (see `registered`)."""
    import llvmlite.binding as llvm

    with _lock:
        target_machine = _machine_of(0 if quickly else 2)
        target_machine.set_asm_verbosity(True)
        return str(target_machine.emit_assembly(llvm.parse_assembly(text)))


def _loaded(code: bytes) -> Any:
    """The engine that holds object code."""
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine_of(0))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine
