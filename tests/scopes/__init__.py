"""Attention inside the bodies of If, Loop and Scan, and inside functions."""
