"""What the commands share: exit codes, writing, and checking all that a configuration names."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline.config import (
    PipelineConfig,
    RuntimeConfig,
    import_exception,
    import_object,
    load,
)
from pipeline.errors import ConfigurationError, QueueError, ValidationError
from pipeline.handlers.api import Handler

if TYPE_CHECKING:
    # argparse gives it no public name.
    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

DONE = 0
FAILED = 1
MISUSED = 2
INTERRUPTED = 130


def exit_code(error: QueueError) -> int:
    """2 when the user has to change the command or the configuration, else 1.

    Example:
        >>> exit_code(ConfigurationError("no such file")), exit_code(QueueError("no answer"))
        (2, 1)
    """
    return MISUSED if isinstance(error, (ConfigurationError, ValidationError)) else FAILED


def say(text: str) -> None:
    """Write a result to standard output."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


def json_text(data: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON with letters of any language, where standard output can hold them."""
    readable = (sys.stdout.encoding or "").lower().startswith("utf")
    return json.dumps(data, ensure_ascii=not readable, indent=indent)


def complain(text: str) -> None:
    """Write one message to standard error; results never go there, so both can be piped."""
    sys.stderr.write(f"queue-runtime: {text}\n")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Give a command its argument for the configuration file."""
    parser.add_argument("config", metavar="FILE", help="the configuration, a YAML file")


def add_action(
    actions: Subparsers, name: str, act: Callable[..., Any], told: str
) -> argparse.ArgumentParser:
    """Declare one of a command's actions, which a configuration file is named to.

    Args:
        actions: the command's.
        name: the action's.
        act: what `arguments.act` is then.
        told: what it does, in a few words, for the help.
    """
    parser = actions.add_parser(name, help=told, description=f"{told[0].upper()}{told[1:]}.")
    add_config(parser)
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    parser.set_defaults(act=act)
    return parser


@dataclass(frozen=True, slots=True)
class Checked:
    """A configuration and what its paths name.

    Args:
        config: the configuration.
        handlers: pipeline to handler.
        job: the job's class, if one is named.
    """

    config: RuntimeConfig
    handlers: dict[str, Handler]
    job: type[Any] | None


def open_checked(path: str) -> Checked:
    """Load a configuration file, import all it names, and check that the parts agree.

    Args:
        path: the file.

    Raises:
        ConfigurationError: the file is wrong (its problems alone), or what it names is (all of it).
    """
    config = load(path)
    failures: list[ConfigurationError] = []
    handlers: dict[str, Handler] = {}
    job: type[Any] | None = None
    for name, pipeline in config.pipelines.items():
        try:
            handlers[name] = _handler(name, pipeline, config)
        except ConfigurationError as error:
            failures.append(error)
        failures.extend(_exceptions(name, pipeline))
    try:
        job = _job(config)
    except ConfigurationError as error:
        failures.append(error)
    if failures:
        lines = [str(failure) for failure in failures]
        text = lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} problems:", *lines])
        raise ConfigurationError(f"{path}: {text}") from failures[0]
    return Checked(config, handlers, job)


def _handler(name: str, pipeline: PipelineConfig, config: RuntimeConfig) -> Handler:
    where = f"pipelines.{name}.handler"
    found = import_object(pipeline.handler, where)
    if not isinstance(found, Handler):
        raise ConfigurationError(
            f"{where}: {pipeline.handler} is not a handler but {_article(found)}; decorate it with "
            "@handler from pipeline"
        )
    queue = next(queue for name, queue in config.queues.items() if name == pipeline.queue)
    if found.state is not None and not queue.ordered:
        raise ConfigurationError(
            f"{where}: {pipeline.handler} keeps state for each session, and queue {pipeline.queue} "
            f"keeps no sessions in order: set queues.{pipeline.queue}.fifo: true"
        )
    return found


def _article(found: object) -> str:
    return "a class" if inspect.isclass(found) else f"of type {type(found).__name__}"


def _exceptions(name: str, pipeline: PipelineConfig) -> list[ConfigurationError]:
    """A misspelt exception would be no error anywhere: it would just never be raised."""
    failures = []
    for exception in pipeline.retry.exceptions:
        try:
            import_exception(exception, f"pipelines.{name}.retry.exceptions.{exception}")
        except ConfigurationError as error:
            failures.append(error)
    return failures


def _job(config: RuntimeConfig) -> type[Any] | None:
    if config.job is None:
        return None
    job = import_object(config.job, "job")
    if not inspect.isclass(job):
        raise ConfigurationError(f"job: {config.job} must be a class; it is {_article(job)}")
    known = [name for name in ("feed", "check") if hasattr(job, name)]
    if not known:
        raise ConfigurationError(
            f"job: {config.job} has neither of async feed(client) and async check(states): it "
            "would do nothing; define one"
        )
    for name in known:
        if not inspect.iscoroutinefunction(getattr(job, name)):
            raise ConfigurationError(f"job: {config.job}.{name} must be an async method")
    return job
