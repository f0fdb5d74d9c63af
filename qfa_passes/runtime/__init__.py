"""The custom-operator library and sessions of ONNX Runtime that use it.

Nothing is imported here: programs that only need the library's path should not wait for onnx.
"""
