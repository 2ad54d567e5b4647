"""The memory provider keeps the contract on the virtual loop: waiting costs nothing."""

from tests.walls import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
