"""Memory that the kernel asks for beyond inputs and outputs, counted by an allocator of our own."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Final

from benchmark.attention.c_abi import Call
from benchmark.attention.cache import Cache
from benchmark.attention.case import Case, make_operands
from benchmark.attention.kernel import prefill_call
from benchmark.attention.results import Scratch

_EXTENTS: Final = ((512, 512), (1024, 512), (4096, 512), (512, 1024), (512, 4096), (512, 16384))
_CACHES: Final = ("int8", "int4")
_CACHE_LENGTHS: Final = (2048, 16384)


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
    """Int8 attention of one shape family over S and T: what grows with S, with T, with both; and steps with caches."""
    for queries, keys in _EXTENTS:
        case = Case("", 1, 8, 2, 128, queries, keys, False)
        call = prefill_call(case, make_operands(case), threads)
        yield Scratch("prefill", queries, keys, case.channels, threads, most_bytes(call))
    for kind in _CACHES:
        for keys in _CACHE_LENGTHS:
            case = Case("", 1, 8, 2, 128, 1, keys, True, True)
            operands = make_operands(case)
            cache = Cache(kind, case, operands)
            call = cache.step(case, operands, threads)
            yield Scratch(f"{kind} cache", 1, keys, case.channels, threads, most_bytes(call))


def most_bytes(call: Call) -> int:
    """Runs a request once; what it had at most of the memory of its allocator."""
    counter = CountingAllocator()
    call.use_allocator(counter.allocate, counter.release)
    call.prepare()()
    return counter.most
