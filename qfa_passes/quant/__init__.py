"""Numerics in plain numpy: the readable definition of what kernels and function bodies compute."""
