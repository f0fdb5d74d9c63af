"""Builders of the reference models that the project is developed, tested and measured on.

Importing this package is cheap: torch and transformers are imported by the builders when they run.
They come with the extra ``[models]``.
"""
