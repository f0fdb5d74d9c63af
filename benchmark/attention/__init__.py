"""Attention, ours and everybody's, on the same numbers in one process."""
