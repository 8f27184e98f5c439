"""Large batches are shared out among the threads of XLA's own pool.

The handler schedules all parts but the first, runs that one, and returns a future, which the last
part that ends makes available. What a point gives depends on neither parts nor threads. What all
kernels have of this in common is a module of its own, compiled once, which they call by name.
"""

from collections.abc import Sequence

__all__ = ["SHARE", "THREADS", "packed", "support"]

# The names of the functions: for the number of threads, and to start the parts.
THREADS, SHARE = "jax_cce_threads", "jax_cce_share"

# Byte offsets in the structures of XLA's foreign function interface, version 0: of a call, and of
# its functions.
_API, _CONTEXT, _FUTURE = 16, 24, 168
_DESTROY, _SCHEDULE, _NUM_THREADS, _CREATE, _SET_AVAILABLE = 64, 136, 144, 152, 160
# What a part knows: the shared data, its first point and its end; and what all share: how many
# parts are left, the interface, the future, what runs a part, and the arrays.
_PART, _RUN, _SHARED = 24, 24, 32


def packed(names: Sequence[str]) -> list[str]:
    """The function `@packed`, which is `@run` for an array of pointers, and what it is given to.

    Args:
        names: the arrays that `@run` gets before the first point and the one after the last.
    """
    loaded = list[str]()
    for k, name in enumerate(names):
        loaded += [
            f"  %a{k} = getelementptr ptr, ptr %arrays, i64 {k}",
            f"  {name} = load ptr, ptr %a{k}",
        ]
    pointers = ", ".join(f"ptr {name}" for name in names)
    return [
        f"declare i64 @{THREADS}(ptr)",
        f"declare void @{SHARE}(ptr, i64, i64, ptr, ptr, i64)",
        "define internal void @packed(ptr %arrays, i64 %first, i64 %end) {",
        *loaded,
        f"  call void @run({pointers}, i64 %first, i64 %end)",
        "  ret void",
        "}",
    ]


def support() -> str:
    """The text of the module that all kernels have in common.

    `THREADS` takes a call of XLA's and returns the number of threads. `SHARE` takes that, the
    number of points, how many are a part, a function like `@packed`, its arrays and their number.
    """
    lines = [
        "declare ptr @malloc(i64)",
        "declare void @free(ptr)",
        *_called("destroy", _DESTROY, 3, ["ptr null", "ptr %error"], "ptr %error"),
        *_called("set_available", _SET_AVAILABLE, 3, ["ptr null", "ptr %future"], "ptr %future"),
        *_called(
            "schedule",
            _SCHEDULE,
            5,
            ["ptr null", "ptr %context", "ptr @part", "ptr %data"],
            "ptr %context, ptr %data",
        ),
        f"define i64 @{THREADS}(ptr %frame) {{",
        *_loaded("api", "%frame", _API),
        *_loaded("context", "%frame", _CONTEXT),
        "  %count = alloca i64",
        "  store i64 1, ptr %count",
        *_arguments(4, ["ptr null", "ptr %context", "ptr %count"]),
        *_loaded("function", "%api", _NUM_THREADS),
        "  %error = call ptr %function(ptr %arguments)",
        "  %is_right = icmp eq ptr %error, null",
        "  br i1 %is_right, label %right, label %wrong",
        "right:",
        "  %threads = load i64, ptr %count",
        "  ret i64 %threads",
        "wrong:",
        "  %ignored = call ptr @destroy(ptr %api, ptr %error)",
        "  ret i64 1",
        "}",
        f"define void @{SHARE}(ptr %frame, i64 %points, i64 %each, ptr %run, ptr %arrays, "
        "i64 %count) {",
        "entry:",
        *_loaded("api", "%frame", _API),
        *_loaded("context", "%frame", _CONTEXT),
        "  %above = add i64 %points, %each",
        "  %rounded = sub i64 %above, 1",
        "  %parts = udiv i64 %rounded, %each",
        f"  %of_parts = mul i64 %parts, {_PART}",
        "  %of_arrays = mul i64 %count, 8",
        f"  %size = add i64 %of_arrays, {_SHARED}",
        "  %bytes = add i64 %of_parts, %size",
        "  %shared = call ptr @malloc(i64 %bytes)",
        "  store i64 %parts, ptr %shared",
        "  %kept_api = getelementptr i8, ptr %shared, i64 8",
        "  store ptr %api, ptr %kept_api",
        f"  %of_run = getelementptr i8, ptr %shared, i64 {_RUN}",
        "  store ptr %run, ptr %of_run",
        f"  %own_arrays = getelementptr i8, ptr %shared, i64 {_SHARED}",
        "  call void @llvm.memcpy.p0.p0.i64("
        "ptr %own_arrays, ptr %arrays, i64 %of_arrays, i1 false)",
        *_arguments(3, ["ptr null", "ptr null"]),
        *_loaded("function", "%api", _CREATE),
        "  %ignored = call ptr %function(ptr %arguments)",
        "  %made = getelementptr i64, ptr %arguments, i64 2",
        "  %future = load ptr, ptr %made",
        "  %of_future = getelementptr i8, ptr %shared, i64 16",
        "  store ptr %future, ptr %of_future",
        f"  %result = getelementptr i8, ptr %frame, i64 {_FUTURE}",
        "  store ptr %future, ptr %result",
        "  %records = getelementptr i8, ptr %shared, i64 %size",
        "  br label %next",
        # From the last part to the first, which is run here.
        "next:",
        "  %left = phi i64 [ %parts, %entry ], [ %part, %scheduled ], [ %part, %refused ]",
        "  %part = sub i64 %left, 1",
        f"  %offset = mul i64 %part, {_PART}",
        "  %record = getelementptr i8, ptr %records, i64 %offset",
        "  store ptr %shared, ptr %record",
        "  %first = mul i64 %part, %each",
        "  %of_first = getelementptr i8, ptr %record, i64 8",
        "  store i64 %first, ptr %of_first",
        "  %far = add i64 %first, %each",
        "  %end = call i64 @llvm.umin.i64(i64 %far, i64 %points)",
        "  %of_end = getelementptr i8, ptr %record, i64 16",
        "  store i64 %end, ptr %of_end",
        "  %is_own = icmp eq i64 %part, 0",
        "  br i1 %is_own, label %own, label %other",
        "other:",
        "  %error = call ptr @schedule(ptr %api, ptr %context, ptr %record)",
        "  %is_scheduled = icmp eq ptr %error, null",
        "  br i1 %is_scheduled, label %scheduled, label %refused",
        "scheduled:",
        "  br label %next",
        "refused:",
        "  %destroyed = call ptr @destroy(ptr %api, ptr %error)",
        "  call void @part(ptr %record)",
        "  br label %next",
        "own:",
        "  call void @part(ptr %record)",
        "  ret void",
        "}",
        "define internal void @part(ptr %record) noinline {",
        "  %shared = load ptr, ptr %record",
        "  %of_first = getelementptr i8, ptr %record, i64 8",
        "  %first = load i64, ptr %of_first",
        "  %of_end = getelementptr i8, ptr %record, i64 16",
        "  %end = load i64, ptr %of_end",
        *_loaded("run", "%shared", _RUN),
        f"  %arrays = getelementptr i8, ptr %shared, i64 {_SHARED}",
        "  call void %run(ptr %arrays, i64 %first, i64 %end)",
        "  %before = atomicrmw sub ptr %shared, i64 1 acq_rel",
        "  %is_last = icmp eq i64 %before, 1",
        "  br i1 %is_last, label %last, label %done",
        "last:",
        *_loaded("api", "%shared", 8),
        *_loaded("future", "%shared", 16),
        "  call void @free(ptr %shared)",
        "  %ignored = call ptr @set_available(ptr %api, ptr %future)",
        "  br label %done",
        "done:",
        "  ret void",
        "}",
        "declare i64 @llvm.umin.i64(i64, i64)",
        "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)",
        "",
    ]
    return "\n".join(lines)


def _called(name: str, offset: int, size: int, values: Sequence[str], parameters: str) -> list[str]:
    """A function that calls one of the interface, and returns its error."""
    return [
        f"define internal ptr @{name}(ptr %api, {parameters}) noinline {{",
        *_arguments(size, values),
        *_loaded("function", "%api", offset),
        "  %result = call ptr %function(ptr %arguments)",
        "  ret ptr %result",
        "}",
    ]


def _arguments(size: int, values: Sequence[str]) -> list[str]:
    """The structure `%arguments` of so many words: its size, and the values."""
    lines = [f"  %arguments = alloca [{size} x i64]", f"  store i64 {8 * size}, ptr %arguments"]
    for k, value in enumerate(values, 1):
        lines += [
            f"  %word{k} = getelementptr i64, ptr %arguments, i64 {k}",
            f"  store {value}, ptr %word{k}",
        ]
    return lines


def _loaded(name: str, base: str, offset: int) -> list[str]:
    """A pointer that lies so many bytes after another one."""
    return [
        f"  %of_{name} = getelementptr i8, ptr {base}, i64 {offset}",
        f"  %{name} = load ptr, ptr %of_{name}",
    ]
