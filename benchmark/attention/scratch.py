"""Memory that the kernel asks for beyond inputs and outputs, counted by an allocator of our own."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Final

from benchmark.attention.case import Case, make_operands
from benchmark.attention.kernel import prefill_call
from benchmark.attention.results import Scratch

_EXTENTS: Final = ((512, 512), (1024, 512), (4096, 512), (512, 1024), (512, 4096), (512, 16384))


class CountingAllocator:
    """Memory of the C library; knows how much is out, and the most that was.

    Attributes:
        most: Bytes.
    """

    def __init__(self) -> None:
        """Nothing is out."""
        self.most = 0
        self._sizes: dict[int, int] = {}
        self._c = ctypes.CDLL(None)
        self._c.malloc.restype = ctypes.c_void_p
        self._c.malloc.argtypes = [ctypes.c_size_t]
        self._c.free.argtypes = [ctypes.c_void_p]

    def allocate(self, _context: object, size: int) -> int | None:
        """For qfa_allocator."""
        pointer: int | None = self._c.malloc(size)
        if pointer is not None:
            self._sizes[pointer] = size
            self.most = max(self.most, sum(self._sizes.values()))
        return pointer

    def release(self, _context: object, pointer: int) -> None:
        """For qfa_allocator."""
        self._sizes.pop(pointer, None)
        self._c.free(pointer)


def measure_scratch(threads: int) -> Iterator[Scratch]:
    """Int8 attention of one shape family over S and T: what grows with S, with T, with both."""
    for queries, keys in _EXTENTS:
        case = Case("", 1, 8, 2, 128, queries, keys, False)
        counter = CountingAllocator()
        call = prefill_call(case, make_operands(case), threads)
        call.use_allocator(counter.allocate, counter.release)
        call.prepare()()
        yield Scratch(queries, keys, case.channels, threads, counter.most)
