"""Reading a configuration and writing it out. Every problem is told at once, in one error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config import wording
from pipeline.config.memory import MemoryQueue
from pipeline.config.models import RuntimeConfig
from pipeline.config.references import broken_references
from pipeline.config.secrets import MASK, hides, masked_setting
from pipeline.config.yaml_text import read
from pipeline.errors import ConfigurationError


def load(path: str | Path) -> RuntimeConfig:
    """Read a configuration file.

    Args:
        path: a YAML file in UTF-8.

    Raises:
        ConfigurationError: the file can't be read, or something in it is wrong; the message names
            the file and for every problem the path, the value (no secret) and what is allowed.

    Example:
        >>> load("configs/quickstart.yaml").pipelines["flights"].handlers
        2
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: can't be read: {error.strerror}") from error
    return parse(text, str(path))


def parse(given: str | Mapping[str, Any], source: str = "configuration") -> RuntimeConfig:
    """Check a configuration that is YAML text, or plain mappings as YAML gives them.

    Args:
        given: the text or the mappings.
        source: what errors call it.

    Raises:
        ConfigurationError: something is wrong; see `load`.

    Example:
        >>> parse({"name": "shop", "connections": {"main": {"provider": "memory"}}, "queue": {}})
        Traceback (most recent call last):
            ...
        pipeline.errors.ConfigurationError: configuration has 2 problems:
          queues: missing: this key is required
          queue: unknown key; did you mean queues? the keys here are: name, connections, queues, \
pipelines, job, state, crypto, dead_letter, retry, breaker, timeouts, drain, log, ray; got a mapping
    """
    data = read(given, source) if isinstance(given, str) else given
    try:
        return RuntimeConfig.model_validate(data)
    except ValidationError as error:
        found = wording.merge(wording.problems(error, data), broken_references(data))
        # Not `from error`: pydantic's own error holds the values in clear.
        raise ConfigurationError(wording.message(source, found)) from None


def dump(config: RuntimeConfig) -> str:
    """Write a configuration as YAML, every key with its value; `parse` reads it back as equal.

    Example:
        >>> config = load("configs/quickstart.yaml")
        >>> parse(dump(config)) == config
        True
    """
    return _yaml(config.model_dump(mode="json"))


def resolved(config: RuntimeConfig) -> str:
    """Write a configuration for people, as `queue-runtime check` shows it.

    What follows from other keys is filled in, and whatever looks like a secret is masked.

    Example:
        >>> "sessions: native" in resolved(load("configs/quickstart.yaml"))
        True
    """
    data = config.model_dump(mode="json")
    for name, queue in config.queues.items():
        if isinstance(queue, MemoryQueue):
            data["queues"][name]["sessions"] = queue.session_mode
    return _yaml(_without_secrets(data))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: MASK if isinstance(inner, str) and hides(key, inner) else _without_secrets(inner)
            for key, inner in value.items()
        }
    return masked_setting(value) if isinstance(value, str) else value


def _yaml(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=False)
