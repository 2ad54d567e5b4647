"""Which key provider runs is chosen here, by the configuration, at run time (SPEC C6).

Each provider is imported only when it is chosen, and with it its SDK. The configuration has already
refused one whose extra is not installed, naming the extra.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.clock import Clock
from pipeline.config import AwsKeys, AzureKeys, CryptoConfig, FileKeys
from pipeline.crypto.bodies import OwnBodies
from pipeline.crypto.cipher import AesGcm
from pipeline.crypto.freshness import Freshness
from pipeline.crypto.plaintext import Plaintext
from pipeline.crypto.ring import KeyRing
from pipeline.crypto.rows import Opener, Sealer
from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from pipeline.crypto.keys.kept import KeptKeys


def open_bodies(
    config: CryptoConfig, clock: Clock, fatal: Callable[[BaseException], None] | None = None
) -> OwnBodies:
    """Make what seals and opens bodies in this process; no I/O until its `start()`.

    Args:
        config: how, and where the keys are.
        clock: calendar time, and chance for the jitter.
        fatal: told of a defect after which keys are no longer refreshed.

    Raises:
        ConfigurationError: the configuration names no keys.
    """
    ring = open_keys(config, clock, fatal)
    crypto = AesGcm(ring, clock)
    fresh = config.freshness
    judged = Freshness(fresh.max_age, fresh.skew, fresh.against) if fresh.enabled else None
    opener = Opener(crypto, judged, Plaintext(config.plaintext), clock)
    return OwnBodies(ring, Sealer(crypto, clock), opener)


def open_keys(
    config: CryptoConfig, clock: Clock, fatal: Callable[[BaseException], None] | None = None
) -> KeyRing:
    """Make the key ring of a process; no I/O until its `start()`.

    Args:
        config: where the keys are.
        clock: chance, for the jitter.
        fatal: told of a defect after which keys are no longer refreshed.

    Raises:
        ConfigurationError: the configuration names no keys.

    Example:
        >>> from pipeline.clock import SystemClock
        >>> from pipeline.config import EnvironmentKeys
        >>> ring = open_keys(CryptoConfig(keys=EnvironmentKeys()), SystemClock())
        >>> ring.cached("2026-11") is None
        True
    """
    return KeyRing(
        open_provider(config), ttl=config.ttl, timeout=config.timeout, clock=clock, fatal=fatal
    )


def open_provider(config: CryptoConfig) -> KeptKeys:
    """Make the key provider that the configuration chooses; no I/O until its `start()`.

    Args:
        config: where the keys are.

    Raises:
        ConfigurationError: the configuration names no keys.
    """
    keys = config.keys
    if keys is None:
        raise ConfigurationError("crypto.keys: missing: say where the encryption keys are")
    if isinstance(keys, AwsKeys):
        from pipeline.crypto.keys.aws import AwsKeyProvider

        return AwsKeyProvider(keys, config.timeout)
    if isinstance(keys, AzureKeys):
        from pipeline.crypto.keys.azure import AzureKeyProvider

        return AzureKeyProvider(keys, config.timeout)
    if isinstance(keys, FileKeys):
        from pipeline.crypto.keys.file import FileKeyProvider

        return FileKeyProvider(keys, config.timeout)
    from pipeline.crypto.keys.environment import EnvironmentKeyProvider

    return EnvironmentKeyProvider(keys, config.timeout)
