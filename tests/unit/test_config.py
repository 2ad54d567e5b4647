"""What the configuration models take, and what every default is."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import (
    CallRetry,
    HandlerRetry,
    MemoryConnection,
    MemoryQueue,
    PipelineConfig,
    RuntimeConfig,
    dump,
    load,
    parse,
    resolved,
)
from pipeline.config.models import Model

CONFIGS = Path("configs")


def minimal(**more: Any) -> dict[str, Any]:
    """The smallest valid configuration, and what a test adds or replaces."""
    return {
        "name": "shop",
        "connections": {"main": {"provider": "memory"}},
        "queues": {"orders": {"connection": "main"}},
    } | more


# --- defaults and the reference -------------------------------------------------------------------


_ONE_OF = {"connections.bus.namespace"}
"""Keys of which one must be given, so that the reference gives it."""


def differences(model: Model, given: dict[str, Any], path: str = "") -> list[str]:
    """Where a written-out model lacks a key, or has another value than the model's default."""
    found = []
    for key, field in type(model).model_fields.items():
        here, value = f"{path}{key}", getattr(model, key)
        if key not in given:
            found.append(f"{here} is missing")
        elif isinstance(value, Model):
            found += differences(value, given[key], f"{here}.")
        elif isinstance(value, dict) and value and isinstance(next(iter(value.values())), Model):
            for name, inner in value.items():
                found += differences(inner, given[key][name], f"{here}.{name}.")
        elif not field.is_required() and here not in _ONE_OF:
            default = field.get_default(call_default_factory=True)
            if (given[key], type(given[key])) != (default, type(default)):
                found.append(f"{here} is {given[key]!r} and not {default!r}")
    return found


@pytest.mark.spec("P6", "P16", "R1", "H5", "H6")
def test_the_reference_shows_every_key_with_its_default() -> None:
    text = (CONFIGS / "reference.yaml").read_text(encoding="utf-8")
    assert differences(parse(text), yaml.safe_load(text)) == []


def test_a_reference_that_lacks_a_key_or_has_another_default_is_found() -> None:
    """The test above can fail, at every depth."""
    text = (CONFIGS / "reference.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    del data["log"]["level"]
    data["pipelines"]["example"]["retry"]["hold"] = 61.0
    data["queues"]["example"]["max_bytes"] += 1
    assert differences(parse(text), data) == [
        "queues.example.max_bytes is 4294967297 and not 4294967296",
        "pipelines.example.retry.hold is 61.0 and not 60.0",
        "log.level is missing",
    ]


@pytest.mark.spec("P6", "R1", "H5", "H6", "P5")
def test_the_defaults_are_the_specification_s() -> None:
    """Said once more in figures, so that code and reference can't drift together."""
    config = parse(minimal(pipelines={"p": {"queue": "orders", "handler": "a:b"}}))
    queue, pipeline = config.queues["orders"], config.pipelines["p"]
    times = config.timeouts
    assert (times.connect, times.send, times.receive, queue.visibility) == (30, 10, 30, 300)
    assert config.retry.model_dump() == {
        "max_attempts": 3,
        "initial": 1.0,
        "maximum": 30.0,
        "factor": 2.0,
    }
    retry = pipeline.retry
    assert (retry.max_attempts, retry.initial, retry.maximum, retry.factor) == (5, 1, 300, 2)
    assert (pipeline.timeout, pipeline.concurrency, pipeline.threads) == (300, 64, 1)
    assert (queue.sessionless, queue.on_unsupported_sessions) == ("reject", "fail")
    assert (config.drain.release, config.drain.running, config.drain.cancel) == (1, 30, 10)


@pytest.mark.spec("P16")
def test_every_shipped_configuration_is_valid() -> None:
    for path in sorted(CONFIGS.glob("*.yaml")):
        if path.name != "runtime-env.yaml":  # Ray's, not ours
            load(path)


def test_the_quickstart_asks_for_at_most_one_cpu_in_all() -> None:
    config = load(CONFIGS / "quickstart.yaml")
    cpus = config.ray.broker_cpus * len(config.connections)
    for pipeline in config.pipelines.values():
        cpus += config.ray.receiver_cpus * pipeline.receivers
        cpus += config.ray.router_cpus * pipeline.routers
        cpus += config.ray.handler_cpus * pipeline.handlers
    assert cpus <= 1


@pytest.mark.spec("F6")
def test_the_jobs_environment_leaves_time_for_a_drain() -> None:
    environment = yaml.safe_load((CONFIGS / "runtime-env.yaml").read_text(encoding="utf-8"))
    drain = load(CONFIGS / "quickstart.yaml").drain
    wait = float(environment["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"])
    assert wait >= drain.release + drain.running + drain.cancel + 10
    assert "pip" not in environment


@pytest.mark.spec("P11")
def test_the_memory_configuration_has_a_queue_of_each_dialect() -> None:
    config = load(CONFIGS / "memory.yaml")
    modes = {name: queue.session_mode for name, queue in config.queues.items()}
    assert modes == {"native": "native", "groups": "groups", "unordered": "none"}
    assert not config.pipelines


# --- what follows from what -----------------------------------------------------------------------


@pytest.mark.spec("P4", "P5", "P11")
@pytest.mark.parametrize(
    ("fifo", "sessions", "mode", "ordered"),
    [
        (True, None, "native", True),
        (False, None, "none", False),
        (True, "groups", "groups", True),
        (True, "none", "none", False),
        (False, "native", "native", False),
    ],
)
def test_the_session_mode_in_force(fifo: bool, sessions: Any, mode: str, ordered: bool) -> None:
    queue = MemoryQueue(connection="main", fifo=fifo, sessions=sessions)
    assert (queue.session_mode, queue.ordered) == (mode, ordered)


def test_a_configuration_made_in_python_is_checked_as_a_file_is() -> None:
    config = RuntimeConfig(
        name="shop",
        connections={"main": MemoryConnection()},
        queues={"orders": MemoryQueue(connection="main"), "bills": {"connection": "main"}},
        pipelines={"p": PipelineConfig(queue="orders", handler="a:b")},
    )
    assert config.queues["bills"] == MemoryQueue(connection="main")
    with pytest.raises(pydantic.ValidationError, match="must be one of the queues: orders"):
        RuntimeConfig(
            name="shop",
            connections={"main": MemoryConnection()},
            queues={"orders": MemoryQueue(connection="main")},
            pipelines={"p": PipelineConfig(queue="order", handler="a:b")},
        )


def test_nothing_changes_later() -> None:
    config = parse(minimal())
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.name = "other"


def test_a_configuration_travels_through_pickle() -> None:
    config = load(CONFIGS / "quickstart.yaml")
    copy = pickle.loads(pickle.dumps(config))
    assert copy == config
    assert copy.queues["flights"].ordered


# --- round trip -----------------------------------------------------------------------------------

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)
queue_names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._/~-]{0,20}[A-Za-z0-9])?", fullmatch=True)
identifiers = st.from_regex(r"[^\W\d]\w{0,5}(\.[^\W\d]\w{0,5}){0,2}", fullmatch=True)
objects = st.builds("{}:{}".format, identifiers, identifiers)
counts = st.integers(1, 2**70)
some = st.floats(1e-300, 1e300)
seconds = st.just(0.0) | some
locks = st.floats(0, 43_200, exclude_min=True)


def calls(model: type[CallRetry], **more: Any) -> st.SearchStrategy[Any]:
    times = st.tuples(seconds, seconds).map(sorted)
    return times.flatmap(
        lambda pair: st.builds(
            model,
            max_attempts=counts,
            initial=st.just(pair[0]),
            maximum=st.just(pair[1]),
            factor=st.floats(1, 1e9),
            **more,
        )
    )


@st.composite
def configurations(draw: st.DrawFn) -> RuntimeConfig:
    """Any valid configuration."""
    connections = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    queue = st.builds(
        MemoryQueue,
        connection=st.sampled_from(connections),
        on_unsupported_sessions=st.just("unordered"),
        visibility=locks,
        max_deliveries=st.none() | counts,
        time_to_live=st.none() | some,
        duplicate_window=seconds,
        max_messages=counts,
        max_bytes=counts,
        max_message_size=counts,
    )
    queues = draw(st.dictionaries(queue_names, queue, min_size=1, max_size=3))
    decisions = st.dictionaries(identifiers, st.sampled_from(["retry", "reject"]), max_size=2)
    pipeline = st.builds(
        PipelineConfig,
        queue=st.sampled_from(sorted(queues)),
        handler=objects,
        receivers=st.integers(1, 64),
        sessions=st.none() | counts,
        retry=calls(HandlerRetry, hold=seconds, exceptions=decisions),
        timeout=locks,
    )
    return draw(
        st.builds(
            RuntimeConfig,
            name=st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True),
            connections=st.just(dict.fromkeys(connections, MemoryConnection())),
            queues=st.just(queues),
            pipelines=st.dictionaries(names, pipeline, max_size=2),
            job=st.none() | objects,
            retry=calls(CallRetry),
        )
    )


@pytest.mark.spec("P16")
@given(configurations())
def test_a_configuration_written_out_and_read_again_is_equal(config: RuntimeConfig) -> None:
    assert parse(dump(config)) == config


@given(configurations())
def test_what_check_shows_differs_only_in_what_follows_from_other_keys(
    config: RuntimeConfig,
) -> None:
    again = parse(resolved(config))
    assert again.model_copy(update={"queues": config.queues}) == config
    assert [queue.sessions for queue in again.queues.values()] == [
        queue.session_mode for queue in config.queues.values()
    ]


@pytest.mark.spec("P8")
def test_what_looks_like_a_secret_is_masked_in_what_check_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No model has a secret yet; what later ones let through must still not be shown."""
    config = parse(minimal())
    kept = {"queues": {"orders": {}}, "main": {"password": "hunter2", "url": "x://me:pw@host"}}
    monkeypatch.setattr(RuntimeConfig, "model_dump", lambda self, mode: kept)
    assert "hunter2" not in resolved(config)
    assert "pw" not in resolved(config).replace("password", "")
