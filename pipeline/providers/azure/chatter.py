"""What the SDK logs of calls that are ours: told again at our own level DEBUG, and nowhere else.

It logs each call that fails as an error, often with a traceback. Whoever made the call hears of the
failure anyway, and what is logged of it is decided there (SPEC O3). Only what is logged within a
call of ours is kept back: a program may use the SDK beside us, and its logs are its own.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar

_log = logging.getLogger("queue_runtime.servicebus")
_SDK = "azure.servicebus"
_ours: ContextVar[bool] = ContextVar("queue_runtime_azure_call", default=False)


def claim() -> None:
    """What is logged from here on, in this task and those that it starts, is of a call of ours."""
    _ours.set(True)


def hush() -> None:
    """Keep back what the SDK logs of our calls; any number of times.

    A filter on each of its loggers: one on their parent would not see what they log, and one on the
    handlers would be at the application's.
    """
    for name in list(logging.root.manager.loggerDict):
        if name == _SDK or name.startswith(f"{_SDK}."):
            logging.getLogger(name).addFilter(_kept_back)


def _kept_back(record: logging.LogRecord) -> bool:
    """Whether the SDK's logger shall go on with it; below a warning that was asked for by name."""
    if record.levelno < logging.WARNING or not _ours.get():
        return True
    _log.debug("%s: %s", record.name, record.getMessage(), exc_info=record.exc_info)
    return False
