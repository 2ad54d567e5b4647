"""Joining a run from outside: its queues, its figures, and requests to its driver."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Any, Self

import ray

from actors.broker import RemoteBroker
from actors.calls import answer
from actors.topology import namespace, shared_connections
from pipeline.client import QueueClient
from pipeline.config import RuntimeConfig
from pipeline.errors import ConfigurationError, QueueError


class Attached:
    """A run of a configuration, joined from another process; `async with` joins and leaves.

    Args:
        config: the configuration that runs.
        address: the Ray cluster it runs in.
    """

    def __init__(self, config: RuntimeConfig, address: str) -> None:
        self._config = config
        self._address = address
        self._joined = False

    async def __aenter__(self) -> Self:
        """Join the cluster.

        Raises:
            ConfigurationError: it can't be joined, or the run is not there.
        """
        if not ray.is_initialized():
            try:
                ray.init(
                    address=self._address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                )
            except (ConnectionError, RuntimeError, OSError, ValueError) as error:
                raise ConfigurationError(
                    f"the Ray cluster at {self._address} can't be joined: {error}"
                ) from error
            self._joined = True
        try:
            self._status = self._actor("status")
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    def client(self) -> QueueClient:
        """A client of the run's queues."""
        brokers = {
            name: RemoteBroker(self._actor(f"broker:{name}", connection.run))
            for name, connection in self._config.connections.items()
            if connection.provider == "memory"
        }
        return QueueClient(self._config, brokers=brokers, shared=shared_connections(self._config))

    async def figures(self) -> dict[str, Any]:
        """The last figures of the run."""
        figures: dict[str, Any] = await answer(self._status.figures.remote())
        return figures

    async def drain(self, *, wait: bool) -> None:
        """Ask the run to drain, and wait until it is gone."""
        await answer(self._status.request.remote("drain"))
        while wait:
            await asyncio.sleep(0.2)
            try:
                await self.figures()
            except QueueError:  # its status actor is gone, and so is the run
                return

    def _actor(self, name: str, run: str | None = None) -> Any:
        try:
            return ray.get_actor(name, namespace=namespace(run or self._config.name))
        except ValueError as error:
            raise ConfigurationError(
                f"no run of {run or self._config.name!r} is active in the cluster at "
                f"{self._address}: start it with `queue-runtime run FILE`"
            ) from error

    def _leave(self) -> None:
        if self._joined:
            ray.shutdown()
            self._joined = False
