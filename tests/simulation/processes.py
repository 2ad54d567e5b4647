"""Processes in one thread: who a piece of running code belongs to, and how it is stopped.

A process is an incarnation of one core. What it starts (tasks, timers, callbacks) inherits a
context variable that names it, and the loop asks it before it runs any of them: a killed process
takes no step any more, not even to clean up, and nothing of it gets out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any

from pipeline.testing.virtual_loop import VirtualLoop
from tests.simulation.faults import Fault

CURRENT: ContextVar[Process | None] = ContextVar("process", default=None)
NOBODY = Context()
"""The context of what is not a process: the network, the broker, the supervisor."""


@dataclass(eq=False)
class Slot:
    """A place in the cluster that one process after the other takes.

    Args:
        role: connection, receiver, router or handler.
        number: which.
        faults: what is to happen at which of its steps.
    """

    role: str
    number: int
    faults: dict[int, Fault]
    steps: int = 0
    incarnations: int = 0
    process: Process | None = None
    standing: bool = False
    """Whether its process is up, and not being replaced."""

    @property
    def name(self) -> str:
        """As faults call it."""
        return f"{self.role} {self.number}"

    @property
    def here(self) -> Process:
        """The process that has the place."""
        assert self.process is not None
        return self.process


@dataclass(eq=False, slots=True)
class _Due:
    """A callback that is to run, and the handle by which it can be cancelled until then."""

    callback: Callable[..., None]
    args: tuple[Any, ...]
    context: Context
    handle: asyncio.Handle | None = None

    def cancelled(self) -> bool:
        return self.handle is not None and self.handle.cancelled()


@dataclass(eq=False)
class Process:
    """One incarnation of a core.

    Args:
        slot: whose place it takes.
        strike: told of a fault at one of its steps.
        watch: called after each of its steps.
    """

    slot: Slot
    strike: Callable[[Process, Fault], None]
    watch: Callable[[Process], None]
    core: Any = None
    dead: bool = False
    zombie: bool = False
    """Taken for dead, yet going on."""
    late: bool = False
    """Killed because what it ran did not end."""
    still: list[_Due] | None = None
    answers: dict[asyncio.Future[Any], None] = field(default_factory=dict)
    """What callers wait for from here."""
    context: Context = field(init=False)
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.slot.incarnations += 1
        self.name = f"{self.slot.name}.{self.slot.incarnations}"
        self.context = Context()
        self.context.run(CURRENT.set, self)

    @property
    def gone(self) -> bool:
        """Whether others take it for dead."""
        return self.dead or self.zombie

    def step(self, due: _Due) -> None:
        """Take one step, unless that is not to be."""
        if self.dead or due.cancelled():
            return
        if self.still is not None:
            self.still.append(due)
            return
        slot = self.slot
        if slot.process is self:
            slot.steps += 1
            fault = slot.faults.get(slot.steps)
            if fault is not None:
                self.strike(self, fault)
                if self.dead or self.still is not None:
                    self.step(due)
                    return
        due.callback(*due.args)
        self.watch(self)

    def stand_still(self, seconds: float) -> None:
        """Take no step for so long; then take all that were due, in order."""
        self.still = []
        asyncio.get_running_loop().call_later(seconds, self._go_on, context=NOBODY)

    def _go_on(self) -> None:
        due, self.still = self.still or [], None
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ProcessLoop)
        for one in due:
            loop.call_due(self, one)

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Run a coroutine here."""
        return asyncio.get_running_loop().create_task(work, context=self.context.copy())

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        """Call a function here."""
        asyncio.get_running_loop().call_soon(callback, *args, context=self.context.copy())

    def now(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function here, at once."""
        return self.context.copy().run(function, *args)


class ProcessLoop(VirtualLoop):
    """A VirtualLoop on which every callback belongs to a process, or to nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._task)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """As any loop does, but the process that it is for may refuse."""
        process = CURRENT.get() if context is None else context.get(CURRENT)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        if context is None:
            context = copy_context()
        due = _Due(callback, args, context)
        due.handle = handle = self.call_due(process, due)
        return handle

    def call_due(self, process: Process, due: _Due) -> asyncio.Handle:
        """Let a process run a callback in the next pass."""
        return super().call_soon(process.step, due, context=due.context)

    def hold(self, process: Process) -> None:
        """Stay where user code is until its process is dead; all else goes on meanwhile.

        A call of a sync handler that never ends can't be left in one thread: the loop runs within
        it. Of several such calls the last one to begin is the first to be left, which makes no
        difference to processes that are dead.
        """
        ready = self._ready  # type: ignore[attr-defined]
        most = len(ready)
        try:
            while not (process.dead or self._stopping):  # type: ignore[attr-defined]
                self._run_once()  # type: ignore[attr-defined]
        finally:
            # The pass of the loop that this is in counts on those that were ready when it began.
            while len(ready) < most:
                ready.append(asyncio.Handle(_nothing, (), self, Context()))

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As any loop does, but the process that it is for may refuse."""
        process = CURRENT.get() if context is None else context.get(CURRENT)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        if context is None:
            context = copy_context()
        due = _Due(callback, args, context)
        due.handle = timer = super().call_at(when, process.step, due, context=context)
        return timer

    def _task(
        self, loop: asyncio.AbstractEventLoop, work: Any, context: Context | None = None
    ) -> asyncio.Task[Any]:
        process = CURRENT.get() if context is None else context.get(CURRENT)
        name = "nobody" if process is None else process.name
        task = asyncio.Task(work, loop=loop, name=name, context=context)
        self.tasks.append(task)
        return task

    def bury(self) -> None:
        """End what killed processes left: close it, so that nothing complains of not having run."""
        for task in self.tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with suppress(BaseException):  # whatever a dead process's code has to say
                    task.get_coro().close()  # type: ignore[union-attr]
            elif not task.cancelled():
                task.exception()


def _nothing() -> None:
    """What is to be done where something was to be done, and has been."""
