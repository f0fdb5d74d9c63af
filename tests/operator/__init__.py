"""The custom operator in ONNX Runtime: contract, errors, registration."""
