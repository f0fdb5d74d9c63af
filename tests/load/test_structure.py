"""Models that contradict themselves, or are built to exhaust the reader (faults 16, 17 and 19)."""

import time

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from qfa_passes.core.wire_format import encode_varint
from qfa_passes.errors import InvalidModelError, LimitExceededError, QfaError, UnsupportedModelError
from qfa_passes.load import Limits, read_model
from tests.load.refusals import refused
from tests.load.small_models import chain, two_layers


def relu(source: str, target: str) -> NodeProto:
    """One node."""
    return helper.make_node("Relu", [source], [target], f"relu_{target}")


def nested_bytes(levels: int) -> bytes:
    """A model with graphs in attributes of nodes in graphs ..., written without a recursive library."""
    graph = b""
    for _ in range(levels):
        attribute = b"\x32" + encode_varint(len(graph)) + graph
        node = b"\x2a" + encode_varint(len(attribute)) + attribute
        graph = b"\x0a" + encode_varint(len(node)) + node
    return b"\x08\x0a\x3a" + encode_varint(len(graph)) + graph


def nested_proto(levels: int) -> ModelProto:
    """A valid model with If in If in If ..."""
    model = chain([relu("x", "y")], ["x"], ["y"])
    graph = model.graph
    for level in range(levels):
        node = graph.node.add(
            op_type="Loop", name=f"loop{level}", input=["x"], output=[f"out{level}"]
        )
        attribute = node.attribute.add(name="body", type=onnx.AttributeProto.GRAPH)
        graph = attribute.g
        graph.node.add(op_type="Relu", input=["x"], output=["inner"])
        graph.output.add(name="inner")
    return model


@pytest.mark.parametrize("levels", [40, 1000, 10_000])
def test_nested_files(levels: int) -> None:
    """Nested beyond what protobuf reads: named as such."""
    with refused(LimitExceededError, "nested"):
        read_model(nested_bytes(levels))


def test_nested_objects() -> None:
    """A ModelProto in memory can be deeper than a file; no recursion, no crash."""
    read_model(nested_proto(25))
    for levels in (70, 10_000):
        with refused(LimitExceededError, "nested deeper than 64"):
            read_model(nested_proto(levels))
    with refused(LimitExceededError, "nested deeper than 5"):
        read_model(nested_proto(6), limits=Limits(depth=5))


def function(name: str, calls: list[str], domain: str = "local") -> FunctionProto:
    """A function of one input that calls others in a row."""
    nodes = [relu("x", "v0")]
    for index, callee in enumerate(calls):
        nodes.append(helper.make_node(callee, [f"v{index}"], [f"v{index + 1}"], domain="local"))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function(domain, name, ["x"], [f"v{len(calls)}"], nodes, imports)


def with_functions(functions: list[FunctionProto]) -> ModelProto:
    """A model that calls the first of the functions."""
    model = chain([helper.make_node(functions[0].name, ["x"], ["y"], domain="local")], ["x"], ["y"])
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.functions.extend(functions)
    return model


def test_functions() -> None:
    """Calls without a circle are fine; circles of any length are named."""
    read_model(with_functions([function("f", ["g", "g"]), function("g", ["h"]), function("h", [])]))
    read_model(with_functions([function("f", ["g", "h"]), function("g", ["h"]), function("h", [])]))
    with refused(InvalidModelError, "local::f", "calls itself"):
        read_model(with_functions([function("f", ["f"])]))
    with refused(InvalidModelError, "local::f", "local::h"):
        read_model(
            with_functions([function("f", ["g"]), function("g", ["h"]), function("h", ["f"])])
        )
    with refused(InvalidModelError, "defined twice"):
        read_model(with_functions([function("f", []), function("f", [])]))


def test_function_call_bombs() -> None:
    """Each function doubles the one before: 2**40 nodes from 40 functions; and 10,000 functions in a row."""
    doubling = [function(f"f{i}", [f"f{i + 1}"] * 2) for i in range(40)] + [function("f40", [])]
    with refused(LimitExceededError, "2,000,000 nodes"):
        read_model(with_functions(doubling))
    row = [function(f"f{i}", [f"f{i + 1}"]) for i in range(10_000)] + [function("f10000", [])]
    with refused(LimitExceededError, "levels deep"):
        read_model(with_functions(row))
    wide = [
        function("f", ["g"] * 1000),
        function("g", ["h"] * 1000),
        function("h", ["i"] * 10),
        function("i", []),
    ]
    with refused(LimitExceededError):
        read_model(with_functions(wide))


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([relu("x", "y"), relu("x", "y")], ["'y'", "twice"]),
        ([relu("x", "x"), relu("x", "y")], ["'x'", "twice"]),
        ([relu("y", "y")], ["cycle"]),
        ([relu("b", "a"), relu("a", "b"), relu("a", "y")], ["cycle", "relu_a", "relu_b"]),
        ([relu("a", "y"), relu("x", "a")], ["before", "relu_a", "order"]),
        ([relu("nothing", "y")], ["'nothing'", "nothing computes"]),
        ([relu("x", "a")], ["'y'", "no node"]),
        ([helper.make_node("", ["x"], ["y"])], ["no valid name"]),
        ([helper.make_node("F", ["x"], ["y"], domain="mars")], ["'mars'", "opset import"]),
    ],
)
def test_names_and_order(nodes: list[NodeProto], words: list[str]) -> None:
    """Every value once and before its use."""
    with refused(InvalidModelError, *words):
        read_model(chain(nodes, ["x"], ["y"]))


def test_duplicate_inputs_and_initializers() -> None:
    """Two inputs or two initializers of a name are refused; an input with a default is one value."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    with refused(InvalidModelError, "'w'", "twice"):
        read_model(chain([relu("w", "y")], [], ["y"], initializer=[weight, weight]))
    with refused(InvalidModelError, "'x'", "twice"):
        read_model(chain([relu("x", "y")], ["x", "x"], ["y"]))
    with refused(InvalidModelError, "'w'", "twice"):
        read_model(chain([relu("w", "y")], ["w", "w"], ["y"], initializer=[weight]))
    read_model(chain([relu("w", "y")], ["w"], ["y"], initializer=[weight]))


def branch(reads: str, output: str = "out") -> GraphProto:
    """A subgraph that reads one outer value."""
    return helper.make_graph(
        [relu(reads, output)],
        "branch",
        [],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
    )


def test_subgraphs_see_what_was_computed_before() -> None:
    """Captures of earlier values are fine, of later ones not."""

    def model(captured: str) -> ModelProto:
        choice = helper.make_node(
            "If", ["cond"], ["y"], "choice", then_branch=branch(captured), else_branch=branch("x")
        )
        return chain([relu("x", "before"), choice, relu("y", "after")], ["x", "cond"], ["after"])

    read_model(model("before"))
    with refused(InvalidModelError, "'after'"):
        read_model(model("after"))
    with refused(InvalidModelError, "cycle"):
        read_model(model("y"))
    with refused(InvalidModelError, "'unknown'"):
        read_model(model("unknown"))


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(6)), st.lists(st.integers(0, 5), min_size=6, max_size=6))
def test_order_against_a_plain_rule(order: list[int], sources: list[int]) -> None:
    """Accepted exactly if every node's source stands before it."""
    nodes = [relu("x" if sources[i] == i else f"v{sources[i]}", f"v{i}") for i in order]
    done: set[str] = {"x"}
    valid = True
    for node in nodes:
        valid = valid and node.input[0] in done
        done.add(node.output[0])
    model = chain(nodes, ["x"], [f"v{order[-1]}"])
    if valid:
        read_model(model)
        onnx.checker.check_graph(model.graph, onnx.checker.DEFAULT_CONTEXT)
    else:
        with pytest.raises(InvalidModelError):
            read_model(model)


def test_versions() -> None:
    """Newer than this installation: refused with the way out. Unknown domains: kept."""
    model = two_layers()
    model.opset_import[0].version = onnx.defs.onnx_opset_version() + 1
    with refused(UnsupportedModelError, "opset", "pip install --upgrade onnx", exit_code=6):
        read_model(model)
    model = two_layers()
    model.ir_version = onnx.IR_VERSION + 1
    with refused(UnsupportedModelError, "IR version", "upgrade", exit_code=6):
        read_model(model.SerializeToString())
    model.ir_version = 2
    with refused(UnsupportedModelError, "IR version 2", exit_code=6):
        read_model(model)
    model.ClearField("ir_version")
    with refused(InvalidModelError, "IR version"):
        read_model(model)
    model = two_layers()
    del model.opset_import[:]
    with refused(InvalidModelError, "opset import", "domain ''"):
        read_model(model)
    for versions in ([17, 18], [0], [-3]):
        del model.opset_import[:]
        model.opset_import.extend(
            helper.make_opsetid(d, v) for d, v in zip(["", "ai.onnx"], versions, strict=False)
        )
        with refused(InvalidModelError, "version"):
            read_model(model)
    model = chain([helper.make_node("Fancy", ["x"], ["y"], domain="mars", power=3)], ["x"], ["y"])
    model.opset_import.append(helper.make_opsetid("mars", 99))
    assert read_model(model).proto == model


def test_names_that_are_no_text() -> None:
    """Broken UTF-8 anywhere in names is refused, not passed on as bytes."""
    good = two_layers().SerializeToString()
    read_model(good)
    for name in (b"w1", b"b1", b"h1", b"first", b"MatMul", b"x", b"y"):
        position = -1
        while (position := good.find(name, position + 1)) >= 0:
            if good[position - 1] != len(name):
                continue
            bad = good[:position] + b"\xff" * len(name) + good[position + len(name) :]
            with pytest.raises(QfaError) as caught:
                read_model(bad)
            assert caught.value.exit_code in (5, 6)


def test_large_graphs_take_linear_time() -> None:
    """Twice the nodes, about twice the time; wide nodes and huge names are no trouble."""

    def line(count: int) -> bytes:
        model = chain([], ["v0"], [f"v{count}"])
        for index in range(count):
            model.graph.node.add(op_type="Relu", input=[f"v{index}"], output=[f"v{index + 1}"])
        return model.SerializeToString()

    def seconds(raw: bytes) -> float:
        def once() -> float:
            start = time.process_time()
            read_model(raw)
            return time.process_time() - start

        return min(once() for _ in range(3))

    assert seconds(line(40_000)) < 4 * 3 * seconds(line(10_000)) + 0.05
    names = [f"i{index}" for index in range(100_000)]
    wide = chain([helper.make_node("Sum", names, ["y"])], names, ["y"])
    assert seconds(wide.SerializeToString()) < 5
    long = "n" * 1_000_000
    read_model(chain([relu("x", long), relu(long, "y")], ["x"], ["y"]))
    with refused(InvalidModelError, "nothing computes"):
        read_model(chain([relu(long, "y")], ["x"], ["y"]))


def test_long_cycle_and_many_nodes() -> None:
    """A cycle through 20,000 nodes is found without recursion; the node budget is enforced."""
    count = 20_000
    nodes = [relu(f"v{(index - 1) % count}", f"v{index}") for index in range(count)]
    with refused(InvalidModelError, "cycle"):
        read_model(chain(nodes, ["x"], ["v0"]))
    with refused(LimitExceededError, "1,000 nodes"):
        read_model(
            chain([relu("x", f"v{i}") for i in range(1001)], ["x"], ["v0"]),
            limits=Limits(nodes=1000),
        )


@pytest.mark.slow
def test_a_million_nodes() -> None:
    """Read in seconds."""
    model = chain([], ["v0"], ["v1000000"])
    for index in range(1_000_000):
        model.graph.node.add(op_type="Relu", input=[f"v{index}"], output=[f"v{index + 1}"])
    raw = model.SerializeToString()
    start = time.process_time()
    read_model(raw)
    assert time.process_time() - start < 60


def test_many_empty_entries() -> None:
    """Two bytes in the file, 160 in memory: counted before they are parsed."""
    for field in (b"\x0a\x00", b"\x6a\x00"):
        graph = field * 5000
        raw = b"\x08\x0a\x3a" + encode_varint(len(graph)) + graph
        with refused(LimitExceededError, "too many entries"):
            read_model(raw, limits=Limits(nodes=1000))
