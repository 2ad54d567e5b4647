"""The simulation runs the real cores in one thread on a virtual clock: the unit tests' walls."""

from tests.walls import pytest_asyncio_loop_factories, walls

__all__ = ["pytest_asyncio_loop_factories", "walls"]
