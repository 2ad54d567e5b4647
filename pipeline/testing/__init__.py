"""What tests of a user's handlers need: `run`, and the parts it is made of."""

from pipeline.testing.run import Result, SentMessage, run
from pipeline.testing.virtual_loop import VirtualLoop

__all__ = ["Result", "SentMessage", "VirtualLoop", "run"]
