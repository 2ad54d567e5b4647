"""Finding what a configuration names by its path: a handler, a job, an exception."""

from __future__ import annotations

import builtins
import importlib
from types import ModuleType
from typing import Any

from pipeline.config.references import closest
from pipeline.config.secrets import masked
from pipeline.errors import ConfigurationError


def import_object(path: str, what: str) -> Any:
    """Import the module of a path `module:attribute` and give its attribute.

    Args:
        path: where it is; the attribute may be dotted (`module:Class.method`).
        what: what it is for, as an error should call it: a path in the configuration.

    Raises:
        ConfigurationError: there is no such module or attribute (close names are told), or
            importing the module failed (its exception is the `__cause__`).

    Example:
        >>> import_object("json:JSONDecoder.decode", "pipelines.example.handler").__name__
        'decode'
        >>> import_object("json:lods", "job")
        Traceback (most recent call last):
            ...
        pipeline.errors.ConfigurationError: job: module 'json' has no 'lods'; did you mean loads?
    """
    module_name, separator, attribute = path.partition(":")
    if not (module_name and separator and attribute):
        raise ConfigurationError(f"{what}: must be 'module:attribute'; got {path!r}")
    found: Any = _module(module_name, what)
    for name in attribute.split("."):
        if not hasattr(found, name):
            hint = closest(name, [known for known in dir(found) if not known.startswith("_")])
            kind = "module" if isinstance(found, ModuleType) else "object"
            where = getattr(found, "__name__", repr(found))
            text = f"{what}: {kind} {where!r} has no {name!r}; {hint}"
            raise ConfigurationError(text.rstrip("; "))
        found = getattr(found, name)
    return found


def _module(name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise ConfigurationError(
                f"{what}: there is no module {missing!r}; it must be installed, or lie in the "
                "directory the command is started in"
            ) from error
        raise _failed(name, what, error) from error
    except (Exception, SystemExit) as error:
        # A module that ends the interpreter when imported must not end ours without a word.
        raise _failed(name, what, error) from error


def _failed(name: str, what: str, error: BaseException) -> ConfigurationError:
    told = masked(f"{type(error).__name__}: {error}")
    return ConfigurationError(f"{what}: importing module {name!r} failed with {told}")


def import_exception(name: str, what: str) -> type[Exception]:
    """Find an exception's class by its dotted name.

    Args:
        name: `module.Class`, or a builtin's name alone (`ValueError`).
        what: what it is for, as an error should call it.

    Raises:
        ConfigurationError: there is no such class, or it is not an exception's.

    Example:
        >>> (
        ...     import_exception("ValueError", "retry"),
        ...     import_exception("json.JSONDecodeError", "retry"),
        ... )
        (<class 'ValueError'>, <class 'json.decoder.JSONDecodeError'>)
    """
    module, _, attribute = name.rpartition(".")
    found = import_object(f"{module or builtins.__name__}:{attribute}", what)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise ConfigurationError(f"{what}: {name!r} is not an exception's class; name one that is")
    return found
