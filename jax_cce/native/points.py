"""The loop over the points of a batch.

It runs over tiles of as many points as a vector register holds. The last tile overlaps the one
before it; of fewer points than a tile has, copies are made.

Where a tile writes less than a few lines of the cache to each of many arrays, these lines compete
for the same places, and are lost before the next tile fills them. Such results are gathered for
some tiles, and leave together, whole lines at a time; past the caches where they would not stay
there.
"""

from collections.abc import Sequence

from jax_cce.native.instructions import Block
from jax_cce.native.tiles import Operand

__all__ = ["gathered", "loop", "together"]

# Bytes of a line of the cache, and of what a core's second cache keeps.
_LINE, _CACHE = 64, 1 << 19
# Arrays of which a tile writes less than so many lines are gathered where there are so many, in
# buffers of so many lines at most, and of so many bytes together.
_FEW_LINES, _MANY, _MOST_LINES, _MOST_BYTES = 4, 8, 16, 1 << 16


def gathered(sizes: Sequence[int], num_bytes: int) -> list[int]:
    """The results that are gathered, by number.

    Args:
        sizes: the entries of each result for one point.
        num_bytes: of a vector.
    """
    found = [k for k, size in enumerate(sizes) if 0 < size * num_bytes < _FEW_LINES * _LINE]
    return found if len(found) > _MANY else []


def together(sizes: Sequence[int], block: Block) -> int:
    """The points after which results leave, a power of two.

    Args:
        sizes: the entries of each result for one point.
        block: the code of a tile.
    """
    narrow, of_line = gathered(sizes, block.lanes * block.bytes), _LINE // block.bytes
    if not narrow:
        return block.lanes
    lines = _MOST_BYTES // (_LINE * sum(sizes[k] for k in narrow))
    return of_line * min(_MOST_LINES, 1 << max(lines.bit_length() - 1, 0))


def loop(block: Block, operands: Sequence[Operand], sizes: Sequence[int]) -> list[str]:
    """The function `@run`, from a first point to an end; all points where they are few.

    Args:
        block: the code of a tile; collects the declarations of functions of the library.
        operands: the arrays to read.
        sizes: the entries of each result for one point.
    """
    written = _Loop(block, operands, sizes)
    return [*written.lines(), *(_leaving(block) if written.narrow else [])]


class _Loop:
    """The parts of `loop`.

    Attributes:
        narrow: the strides of results that are gathered, by name.
    """

    def __init__(self, block: Block, operands: Sequence[Operand], sizes: Sequence[int]) -> None:
        self._code = block.another()
        self._lanes, self._line = block.lanes, _LINE // block.bytes
        self._chunk, self._bytes = together(sizes, block), block.bytes * sum(sizes)
        self._read = {f"%s{k}": x.size if x.levels else 0 for k, x in enumerate(operands)}
        self._written = {f"%r{k}": size for k, size in enumerate(sizes)}
        self.narrow = {f"%r{k}": sizes[k] for k in gathered(sizes, block.lanes * block.bytes)}
        block.declared["smin"] = "declare i64 @llvm.smin.i64(i64, i64)"

    def lines(self) -> list[str]:
        code, kind = self._code, self._code.type
        pointers = ", ".join(f"ptr noalias {name}" for name in (*self._read, *self._written))
        code.lines = lines = [
            f"define internal void @run({pointers}, i64 %first, i64 %end) {{",
            "entry:",
        ]
        for name, stride in (self._read | self._written).items():
            if stride:
                count = stride * self._lanes
                lines.append(f"  %copy{name[1:]} = alloca [{count} x {kind}], align {_LINE}")
        for name, stride in self.narrow.items():
            # A last tile may begin before the points that leave.
            count = (self._line + self._chunk) * stride
            lines.append(f"  %buffer{name[1:]} = alloca [{count} x {kind}], align {_LINE}")
        lines += [
            "  %none = icmp eq i64 %end, 0",
            "  br i1 %none, label %done, label %some",
            "some:",
            f"  %few = icmp slt i64 %end, {self._lanes}",
            "  br i1 %few, label %copies, label %start",
            "start:",
            f"  %last = sub i64 %end, {self._lanes}",
        ]
        if self.narrow:
            self._in_chunks()
        else:
            self._tiles("start", "%first", "%end", "done")
        self._copies()
        lines += ["  br label %done", "done:"]
        if self.narrow:
            # What has gone past the caches is there before anyone is told.
            lines.append("  fence seq_cst")
        return [*lines, "  ret void", "}"]

    def _in_chunks(self) -> None:
        """Tiles, and after some of them what they have left in the buffers."""
        code = self._code
        code.lines += [
            "  %count = sub i64 %end, %first",
            f"  %bytes = mul i64 %count, {self._bytes}",
            f"  %is_large = icmp ugt i64 %bytes, {_CACHE}",
            "  br label %chunks",
            "chunks:",
            "  %begin = phi i64 [%first, %start], [%whole, %leave]",
            f"  %whole = add i64 %begin, {self._chunk}",
            "  %limit = call i64 @llvm.smin.i64(i64 %whole, i64 %end)",
        ]
        self._tiles("chunks", "%begin", "%limit", "leave")
        code.lines += ["leave:", "  %length = sub i64 %limit, %begin"]
        for name, stride in self.narrow.items():
            source = code.pointer(f"%buffer{name[1:]}", self._line * stride)
            target = code.pointer(name, code.add(f"mul i64 %begin, {stride}"))
            size = code.add(f"mul i64 %length, {stride * code.bytes}")
            code.do(f"call void @leave(ptr {target}, ptr {source}, i64 {size}, i1 %is_large)")
        code.do("%again = icmp slt i64 %whole, %end")
        code.do("br i1 %again, label %chunks, label %done")

    def _tiles(self, before: str, first: str, end: str, after: str) -> None:
        """The tiles from a point to another, between the code at two labels."""
        code = self._code
        code.lines += [
            "  br label %tiles",
            "tiles:",
            f"  %at = phi i64 [{first}, %{before}], [%next, %tiles]",
            # The last tile ends with the last point.
            "  %point = call i64 @llvm.smin.i64(i64 %at, i64 %last)",
        ]
        if self.narrow:
            code.do(f"%past = sub i64 %point, {first}")
            code.do(f"%place = add i64 %past, {self._line}")
        places = []
        for name, stride in (self._read | self._written).items():
            base, number = (
                (f"%buffer{name[1:]}", "%place") if name in self.narrow else (name, "%point")
            )
            offset = code.add(f"mul i64 {number}, {stride}") if stride else 0
            places.append(code.pointer(base, offset))
        code.lines += [
            f"  call void @tile({', '.join(f'ptr {place}' for place in places)})",
            f"  %next = add i64 %at, {self._lanes}",
            f"  %more = icmp slt i64 %next, {end}",
            f"  br i1 %more, label %tiles, label %{after}",
        ]

    def _copies(self) -> None:
        """The tile of fewer points than it has lanes."""
        code, width = self._code, self._code.bytes
        code.lines.append("copies:")
        arrays = self._read | self._written
        copied = {name: f"%copy{name[1:]}" if stride else name for name, stride in arrays.items()}
        for name, stride in self._read.items():
            if stride:
                # The lanes that are left over do what the first point does, and end when it does.
                for lane in range(1, self._lanes):
                    place = code.pointer(copied[name], lane * stride)
                    code.copy(place, name, str(stride * width))
                code.copy(copied[name], name, code.add(f"mul i64 %end, {stride * width}"))
        code.do(f"call void @tile({', '.join(f'ptr {place}' for place in copied.values())})")
        for name, stride in self._written.items():
            if stride:
                code.copy(name, copied[name], code.add(f"mul i64 %end, {stride * width}"))


def _leaving(block: Block) -> list[str]:
    """The function that copies from a buffer: whole lines past the caches, if it is told so."""
    code = block.another()
    block.declared["nontemporal"] = "!0 = !{i32 1}"
    code.lines = lines = [
        "define internal void @leave("
        "ptr noalias %target, ptr noalias %source, i64 %bytes, i1 %is_large) noinline {",
        "entry:",
        "  %address = ptrtoint ptr %target to i64",
        "  %both = or i64 %address, %bytes",
        f"  %rest = and i64 %both, {_LINE - 1}",
        "  %is_whole = icmp eq i64 %rest, 0",
        "  %past = and i1 %is_whole, %is_large",
        "  br i1 %past, label %lines, label %usual",
        "lines:",
        "  %at = phi i64 [0, %entry], [%next, %lines]",
        "  %from = getelementptr i8, ptr %source, i64 %at",
        "  %to = getelementptr i8, ptr %target, i64 %at",
    ]
    size = block.lanes * block.bytes
    for k in range(0, _LINE, size):
        vector = code.load("%from", k // block.bytes, block.vector)
        place = code.pointer("%to", k // block.bytes)
        code.do(f"store {block.vector} {vector}, ptr {place}, align {size}, !nontemporal !0")
    lines += [
        f"  %next = add i64 %at, {_LINE}",
        "  %more = icmp ult i64 %next, %bytes",
        "  br i1 %more, label %lines, label %done",
        "usual:",
    ]
    code.copy("%target", "%source", "%bytes")
    return [*lines, "  br label %done", "done:", "  ret void", "}"]
