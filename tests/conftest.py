"""What every test is owed."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _same_logging() -> Iterator[None]:
    """The command line sets the root logger up; tests after it must not notice."""
    level, handlers = logging.root.level, logging.root.handlers[:]
    yield
    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers
