"""The key set in a variable of the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pipeline.config import EnvironmentKeys
from pipeline.crypto.keys.kept import KeptKeys
from pipeline.errors import ConfigurationError


class EnvironmentKeyProvider(KeptKeys):
    """A key provider that reads a variable; it can't be written from another process.

    Args:
        settings: which variable.
        timeout: seconds that a reading may take.
        environment: where variables are.

    Example:
        >>> keys = '{"current": "a", "keys": {"a": "%s="}}' % ("A" * 43)
        >>> settings = EnvironmentKeys(variable="KEYS")
        >>> provider = EnvironmentKeyProvider(settings, 10.0, {"KEYS": keys})
        >>> await provider.current_key_id()
        EncryptionKeyId('a')
    """

    def __init__(
        self,
        settings: EnvironmentKeys,
        timeout: float,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        super().__init__(f"crypto.keys: the variable {settings.variable}", timeout)
        self._variable = settings.variable
        self._environment = environment

    async def _text(self) -> str | None:
        text = self._environment.get(self._variable)
        if text is None:
            raise ConfigurationError(
                f"{self.where} is not set here: start the process with the key set in it"
            )
        return text
