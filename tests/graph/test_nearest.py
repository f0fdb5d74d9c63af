"""From any node or value to the nearest of some nodes."""

import onnx
import pytest

from qfa_passes.graph.nearest import Nearest, Neighbourhood

GRAPH = onnx.parser.parse_graph(
    """
    g (float[N] x, bool c) => (float[N] z)
    {
        [a] u = Relu(x)
        [b] v = Relu(u)
        [choice] w = If (c) <
            then_branch = one () => (float[N] t) { [inner] t = Relu(u) },
            else_branch = two () => (float[N] e) { e = Relu(x) }
        >
        [d] y = Relu(w)
        [e] z = Relu(y)
        [island] i = Constant<value_float = 1.0>()
    }
    """
)


@pytest.mark.parametrize(
    ("name", "wanted", "nearest"),
    [
        ("a", {"a"}, Nearest("a", 0)),
        ("a", {"b"}, Nearest("b", 1)),
        ("u", {"b"}, Nearest("b", 0)),
        ("z", {"a", "d"}, Nearest("d", 1)),
        ("e", {"a"}, Nearest("a", 3)),
        ("b", {"e"}, Nearest("e", 3)),
        ("island", {"a"}, None),
        ("e", {"missing"}, None),
    ],
)
def test_nearest(name: str, wanted: set[str], nearest: Nearest | None) -> None:
    assert Neighbourhood(GRAPH.node).find(name, wanted, 8) == nearest


def test_what_is_too_far_is_not_found() -> None:
    around = Neighbourhood(GRAPH.node)
    assert around.find("e", {"a"}, 2) is None
    assert around.find("e", {"a"}, 3) is not None


def test_names() -> None:
    around = Neighbourhood(GRAPH.node)
    assert "a" in around and "w" in around and "t" not in around
    assert list(around)[:3] == ["a", "b", "choice"]
