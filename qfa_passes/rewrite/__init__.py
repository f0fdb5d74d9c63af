"""Plan -> Q/DQ graph: plain ONNX that marks what is quantized and that stock runtimes load."""

from qfa_passes.rewrite.insert_qdq import InsertQdq

__all__ = ["InsertQdq"]
