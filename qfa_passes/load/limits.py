"""How large and how deep an input may be before it is refused."""

from dataclasses import dataclass
from typing import Final

GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets of one load. All are checked before memory is spent.

    Attributes:
        weight_bytes: Sum of all tensors; a file range that two tensors share counts twice.
        shell_bytes: The model without its large initializers. It is parsed in memory, which takes about twice its size,
            but up to 80 times for a file built to waste memory.
        depth: Subgraphs inside subgraphs (a protobuf cannot hold more than 33), and functions that call functions.
        nodes: Nodes of all graphs and functions together, and nodes once every function call is expanded.
        data_bytes: Arrays of one calibration or verification file.
    """

    weight_bytes: int = 256 * GIB
    shell_bytes: int = GIB // 2
    depth: int = 64
    nodes: int = 2_000_000
    data_bytes: int = 2 * GIB
