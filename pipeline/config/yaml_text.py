"""Reading YAML as strictly as a configuration deserves, and saying where it can't be read.

Plain YAML takes the last of two equal keys, and takes `no:` for a boolean and `5:` for a number;
all of these are errors here. An error names the line and never quotes it: it may hold a secret.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from pipeline.config.secrets import looks_secret, masked_setting
from pipeline.errors import ConfigurationError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with keys that are text and come once."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            problem = "a key must be text: put it in quotes"
            raise yaml.constructor.ConstructorError(
                problem=problem, problem_mark=key_node.start_mark
            )
        if key in seen:
            problem = f"the key {masked_setting(key)!r} is there twice: remove one"
            raise yaml.constructor.ConstructorError(
                problem=problem, problem_mark=key_node.start_mark
            )
        seen.add(key)
    # Deep: a value that contains itself is then an error here, and nobody after us meets one.
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read(text: str, source: str) -> dict[str, Any]:
    """Read one YAML mapping.

    Args:
        text: the YAML.
        source: what errors call it: the file's name.

    Raises:
        ConfigurationError: it is no YAML, not a mapping, empty, or has a key twice; with the line.

    Example:
        >>> read("retry: {factor: 2.0}", "app.yaml")
        {'retry': {'factor': 2.0}}
    """
    try:
        data = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader, made stricter
    except yaml.MarkedYAMLError as error:
        raise ConfigurationError(f"{source}{_where(error, text)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A character YAML forbids, a date that is none, thousands of nested brackets.
        told = "" if isinstance(error, yaml.YAMLError) else f": {type(error).__name__}"
        raise ConfigurationError(f"{source}: can't be read as YAML{told}") from None
    if data is None:
        raise ConfigurationError(f"{source}: is empty; it needs name, connections and queues")
    if not isinstance(data, dict):
        kind = type(data).__name__
        raise ConfigurationError(f"{source}: must be a mapping of keys to values; it is a {kind}")
    return data


def _where(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or "can't be read as YAML"
    if mark is None:
        return f": {problem}"
    # PyYAML quotes names of aliases and tags, and a password may begin with `*` or `!`.
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if looks_secret(line):
        problem = "can't be read as YAML (the line looks as if it held a secret, so it isn't shown)"
    return f", line {mark.line + 1}, column {mark.column + 1}: {problem}"
