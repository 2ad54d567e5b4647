"""Unit tests touch neither Ray nor threads, the network or the clock."""

from tests.walls import pytest_asyncio_loop_factories, walls

__all__ = ["pytest_asyncio_loop_factories", "walls"]
