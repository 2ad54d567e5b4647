"""What a wrong configuration is told: path, value, what is allowed; and no secret, ever."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load, parse
from pipeline.config.secrets import looks_secret, masked, masked_setting, shown
from pipeline.errors import ConfigurationError

BASE = {
    "name": "shop",
    "connections": {"main": {"provider": "memory"}},
    "queues": {"orders": {"connection": "main"}},
    "pipelines": {"p": {"queue": "orders", "handler": "app:on_order"}},
}


def put(path: str, value: Any) -> dict[str, Any]:
    """The base configuration with one value set; `/` between the steps."""

    def changed(data: Any, steps: list[str]) -> Any:
        if not steps:
            return value
        inner = data if isinstance(data, dict) else {}
        return inner | {steps[0]: changed(inner.get(steps[0]), steps[1:])}

    return changed(BASE, path.split("/"))


def told(given: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(given, "app.yaml")
    assert caught.value.__cause__ is None, "a cause could show the values"
    assert caught.value.causes == ()
    return str(caught.value)


QUEUE = "queues/orders"
PIPELINE = "pipelines/p"


@pytest.mark.spec("P16")
@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (
            f"{PIPELINE}/recievers",
            2,
            "pipelines.p.recievers: unknown key; did you mean receivers? the keys here are: queue, "
            "handler, receivers, routers, handlers, credit, batch, sessions, retry, timeout, "
            "concurrency, threads; got 2",
        ),
        (
            f"{PIPELINE}/credit/rows",
            2,
            "pipelines.p.credit.rows: unknown key; the keys here are: messages, bytes; got 2",
        ),
        ("qeues", {}, "qeues: unknown key; did you mean queues? the keys here are: name, "),
        (
            "connections/main/host",
            "x",
            "connections.main.host: unknown key; the keys here are: provider, run; got 'x'",
        ),
        (
            "name",
            "Shop",
            "name: must be 1 to 63 small letters, digits and -, the first a letter or digit; "
            "got 'Shop'",
        ),
        (
            "name",
            5,
            "name: must be text (in quotes, where YAML takes it for something else); got 5",
        ),
        ("connections", {}, "connections: must name at least one; got a mapping"),
        (
            "connections/m n",
            {"provider": "memory"},
            "connections.m n: this name must be 1 to 63 letters, digits and _ . -, the first a "
            "letter or digit",
        ),
        (
            "queues/b b",
            {"connection": "main"},
            "queues.b b: this name must be letters, digits and . _ - / ~, first and last a letter "
            "or digit",
        ),
        (f"{QUEUE}/fifo", 1, "queues.orders.fifo: must be true or false; got 1"),
        (f"{QUEUE}/fifo", "yes", "queues.orders.fifo: must be true or false; got 'yes'"),
        (
            f"{QUEUE}/sessionless",
            "spred",
            "queues.orders.sessionless: did you mean spread? must be 'reject' or 'spread'; "
            "got 'spred'",
        ),
        (
            f"{QUEUE}/count",
            False,
            "queues.orders.count: must be 'on_failure' or 'on_receive'; got false",
        ),
        (
            f"{QUEUE}/visibility",
            43_201,
            "queues.orders.visibility: must be less than or equal to 43200; got 43201",
        ),
        (f"{QUEUE}/visibility", 0, "queues.orders.visibility: must be greater than 0; got 0"),
        (f"{QUEUE}/visibility", "5 min", "queues.orders.visibility: must be a number; got '5 min'"),
        (
            f"{QUEUE}/time_to_live",
            float("inf"),
            "queues.orders.time_to_live: must be a finite number; got inf",
        ),
        (
            f"{QUEUE}/max_messages",
            "5",
            "queues.orders.max_messages: must be a whole number; got '5'",
        ),
        (
            f"{QUEUE}/max_deliveries",
            1.5,
            "queues.orders.max_deliveries: must be a whole number; got 1.5",
        ),
        (f"{QUEUE}/duplicate_window", -1, "must be greater than or equal to 0; got -1"),
        ("queues/orders", 5, "queues.orders: must be a mapping of keys to values; got 5"),
        ("queues", [], "queues: must be a mapping of names to values; got a value of type list"),
        ("pipelines", None, "pipelines: must be a mapping of names to values; got null"),
        (
            f"{PIPELINE}/handler",
            "app.on_order",
            "pipelines.p.handler: must be 'module:attribute', as in app.handlers:on_order; "
            "got 'app.on_order'",
        ),
        (f"{PIPELINE}/handlers", 65, "pipelines.p.handlers: must be less than or equal to 64"),
        (f"{PIPELINE}/receivers", 0, "pipelines.p.receivers: must be greater than or equal to 1"),
        (f"{PIPELINE}/timeout", 43_200.5, "pipelines.p.timeout: must be less than or equal to"),
        (
            f"{PIPELINE}/retry/exceptions/a b",
            "retry",
            "pipelines.p.retry.exceptions.a b: this name must be an exception's dotted name, as in "
            "app.errors.Permanent",
        ),
        (
            f"{PIPELINE}/retry/exceptions/app.Gone",
            "rejct",
            "pipelines.p.retry.exceptions.\"app.Gone\": did you mean reject? must be 'retry' or "
            "'reject'; got 'rejct'",
        ),
        (f"{PIPELINE}/retry/factor", 0.5, "retry.factor: must be greater than or equal to 1"),
        ("retry/maximum", 0.5, "retry.maximum: must be at least initial (1.0); got 0.5"),
        (
            "state/store",
            "dynamodb",
            "state.store: is not in this version yet: must be sqlite or memory; got",
        ),
        ("state/store", "redis", "state.store: must be 'memory' or 'sqlite'; got 'redis'"),
        (
            "state",
            {"store": "memory", "path": "x.sqlite"},
            "state.path: has no use with store: memory; got 'x.sqlite'",
        ),
        ("log/level", "warn", "log.level: did you mean warning? must be 'trace', 'debug', "),
        ("ray/router_cpus", -0.1, "ray.router_cpus: must be greater than or equal to 0"),
        (
            "connections/main/provider",
            "memry",
            "connections.main.provider: did you mean memory? must be one of: memory, aws_sqs, "
            "azure_service_bus; got 'memry'",
        ),
        (
            "connections/main/provider",
            [1],
            "connections.main.provider: must be one of: memory, aws_sqs, azure_service_bus; got a "
            "value of type list",
        ),
        (
            "connections/main",
            {},
            "connections.main.provider: missing: name one of: memory, aws_sqs, azure_service_bus",
        ),
        ("connections/main", "memory", "connections.main: must be a mapping of keys to values"),
    ],
)
def test_one_wrong_value_names_path_rule_and_value(path: str, value: Any, text: str) -> None:
    assert text in told(put(path, value))


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (
            f"{QUEUE}/connection",
            "man",
            "queues.orders.connection: did you mean main? must be one of the connections: main; "
            "got 'man'",
        ),
        (f"{QUEUE}/connection", [1], "queues.orders.connection: must be one of the connections"),
        ("queues/orders", {}, "queues.orders.connection: missing: name one of the connections"),
        (
            f"{PIPELINE}/queue",
            "order",
            "pipelines.p.queue: did you mean orders? must be one of the queues: orders; "
            "got 'order'",
        ),
        (f"{PIPELINE}/queue", 5, "pipelines.p.queue: must be one of the queues: orders; got 5"),
    ],
)
def test_a_name_that_names_nothing_lists_those_that_are_there(
    path: str, value: Any, text: str
) -> None:
    assert text in told(put(path, value))


def test_a_single_problem_stands_on_the_line_of_the_file() -> None:
    assert told(put("log/format", "xml")) == (
        "app.yaml: log.format: must be 'console' or 'json'; got 'xml'"
    )


def test_every_problem_is_told_at_once_also_broken_references() -> None:
    """A misspelt key in one place does not hide a wrong name in another."""
    text = told(
        {
            "name": "F",
            "connections": {
                "main": {"provider": "memory"},
                "bus": {"provider": "azure_service_bus"},
            },
            "queues": {
                "q": {"connection": "main", "fif": True},
                "later": {"connection": "bus", "wait_time": 5},
                "lost": {"connection": "mian"},
            },
            "pipelines": {"p": {"queue": "qq"}, "broken": 5},
            "log": 5,
        }
    )
    paths = [line.strip().split(": ")[0] for line in text.splitlines()]
    assert paths == [
        "app.yaml has 9 problems:",
        "name",
        "connections.bus.connection_string",
        "queues.q.fif",
        "queues.later.wait_time",
        "pipelines.p.handler",
        "pipelines.broken",
        "log",
        "queues.lost.connection",
        "pipelines.p.queue",
    ]


def test_without_any_connection_a_queue_is_told_so() -> None:
    text = told({"name": "shop", "queues": {"q": {"connection": "main"}}})
    assert "connections: missing: this key is required" in text
    assert "queues.q.connection: must be one of the connections: (none is named)" in text


def test_keys_that_are_no_text_are_refused_in_plain_mappings_too() -> None:
    assert "5: a key must be text: put it in quotes; got 5" in told(BASE | {5: 6})
    assert "connections.5: this name must be text" in told(put("connections", {5: {"provider": 1}}))


# --- providers and their SDKs ---------------------------------------------------------------------


@pytest.fixture
def module_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that comes first on the path of modules."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def forget(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Another test may have imported it, and with it the package that it is in."""
    for name in (module, module.partition(".")[0]):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.spec("P1")
@pytest.mark.parametrize(
    ("provider", "extra", "module"),
    [("aws_sqs", "aws", "aioboto3"), ("azure_service_bus", "azure", "azure.servicebus")],
)
def test_a_provider_without_its_sdk_says_which_extra_to_install(
    provider: str, extra: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])  # so that it holds where the SDKs are installed
    forget(monkeypatch, module)
    sys.path_importer_cache.clear()
    text = told(put("connections/main/provider", provider))
    assert f"connections.main.provider: needs pip install 'queue-runtime[{extra}]'" in text
    assert f"({module} is missing)" in text


@pytest.mark.spec("P1")
def test_whether_an_sdk_is_there_is_seen_without_importing_it(
    module_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch, "azure.servicebus")
    directory = module_path / "azure/servicebus"
    directory.mkdir(parents=True)
    for where in (directory, directory.parent):
        (where / "__init__.py").write_text("raise AssertionError('imported')")
    text = told(put("connections/main/provider", "azure_service_bus"))
    assert "connections.main.connection_string: missing" in text
    assert "pip" not in text


@pytest.mark.spec("P1")
def test_azure_s_other_packages_are_not_taken_for_the_service_bus(
    module_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch, "azure.servicebus")
    (module_path / "azure").mkdir()
    (module_path / "azure" / "__init__.py").write_text("raise AssertionError('imported')")
    text = told(put("connections/main/provider", "azure_service_bus"))
    assert "(azure.servicebus is missing)" in text


# --- order without sessions -----------------------------------------------------------------------


@pytest.mark.spec("P4")
def test_order_without_sessions_fails_where_a_pipeline_asks_for_it() -> None:
    queue = {"connection": "main", "fifo": True, "sessions": "none"}
    text = told(put(QUEUE, queue))
    assert "queues.orders.sessions: a fifo queue needs sessions: must be native" in text
    assert "on_unsupported_sessions: unordered" in text
    assert (
        not parse(put(QUEUE, queue | {"on_unsupported_sessions": "unordered"}))
        .queues["orders"]
        .ordered
    )
    unread = put(QUEUE, queue) | {"pipelines": {}}
    assert parse(unread).queues["orders"].fifo


@pytest.mark.spec("P4", "P5")
@pytest.mark.parametrize("dialect", ["native", "groups"])
def test_sessions_without_order_fail_where_a_pipeline_reads_them(dialect: str) -> None:
    """A queue that locks sessions can't be read message by message."""
    text = told(put(QUEUE, {"connection": "main", "sessions": dialect}))
    assert f"queues.orders.fifo: sessions: {dialect} keeps order, and pipeline p reads this" in text
    assert "must be true, or set sessions: none" in text


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.spec("P8")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("password", "hunter2"),
        ("SharedAccessKey", "hunter2"),
        ("aws_secret_access_key", "hunter2"),
        ("connection_string", "hunter2"),
        ("api-key", ["hunter2"]),
        ("auth", {"user": "hunter2"}),
        ("url", "amqps://root:hunter2@host"),
        ("endpoint", "Endpoint=sb://x/;SharedAccessKey=hunter2"),
        ("SharedAccessKey=hunter2", 1),
    ],
)
def test_a_secret_in_clear_is_refused_and_not_printed(key: str, value: object) -> None:
    text = told(put(f"connections/main/{key}", value))
    assert "unknown key" in text
    assert "hunter2" not in text


@pytest.mark.spec("P8")
def test_a_key_that_looks_like_a_secret_s_is_told_why() -> None:
    text = told(put("connections/main/password", "hunter2"))
    assert text.endswith("provider, run; and a secret is never written in clear; got ***")


def test_a_name_somebody_chose_hides_nothing() -> None:
    assert "queues.tokens.fifo: must be true or false; got 1" in told(
        put("queues/tokens", {"connection": "main", "fifo": 1})
    )


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("token", True),
        ("accessToken", True),
        ("AZURE_SAS", True),
        ("private_key", True),
        ("encryption_key", True),
        ("masterKey", True),
        ("key_material", True),
        ("material", False),
        ("encryption_key_id", False),
        ("time_to_live", False),
        ("assignment", False),
        ("signal", False),
        ("key", False),
        ("tokenizer", False),
    ],
)
def test_which_names_look_secret(key: str, secret: bool) -> None:
    assert looks_secret(key) is secret


@pytest.mark.spec("C7", "P8")
@pytest.mark.parametrize(
    "around", ["{}", "key {}.", '{{"a": "{}"}}', "QR_KEYS={} and more", "{}\n"]
)
def test_encryption_keys_are_masked(around: str) -> None:
    """Wherever one was put by mistake, in either alphabet of base64; what is no key is shown.

    Elsewhere as many characters may be a hash that somebody calls a session by."""
    for key in ("s87xSPB+" + "A" * 35 + "=", "-_" + "b" * 41 + "="):
        assert masked_setting(around.format(key)) == around.format("***")
        assert masked_setting(around.format("x" + key)) == around.format("x" + key)
        assert masked(around.format(key)) == around.format(key)


def test_a_long_value_is_cut_after_it_was_masked() -> None:
    text = shown(("a",), "x" * 60 + " password=" + "y" * 60)
    assert "y" not in text
    assert len(shown(("a",), "x" * 1000)) == 80
    assert shown((), 1) == "1"


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "app.yaml: is empty; it needs name, connections and queues"),
        ("# only a comment\n", "app.yaml: is empty"),
        ("- a\n- b\n", "app.yaml: must be a mapping of keys to values; it is a list"),
        ("name", "app.yaml: must be a mapping of keys to values; it is a str"),
        ("name: a\nname: b\n", "app.yaml, line 2, column 1: the key 'name' is there twice"),
        ("queues:\n  a: {x: 1, x: 2}\n", "app.yaml, line 2, column 13: the key 'x' is there twice"),
        ("queues: {no: 1}\n", "app.yaml, line 1, column 10: a key must be text: put it in quotes"),
        ("5: 1\n", "app.yaml, line 1, column 1: a key must be text"),
        ("? [a]\n: 1\n", "app.yaml, line 1, column 3: a key must be text"),
        ("name: [a\n", "app.yaml, line 2, column 1: expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", "app.yaml, line 2, column 1: found character '\\t' that cannot"),
        ("name: !env NAME\n", "app.yaml, line 1, column 7: could not determine a constructor"),
        ("a: !!python/object/apply:os.system [id]\n", "app.yaml, line 1, column 4: could not"),
        ("a: &a {b: *a}\n", "app.yaml, line 1, column 4: found unconstructable recursive node"),
        ("a: &a [*a]\n", "app.yaml, line 1, column 4: found unconstructable recursive node"),
        ("a: 2026-13-45\n", "app.yaml: can't be read as YAML: ValueError"),
        ("a: \x00\n", "app.yaml: can't be read as YAML"),
        ("[" * 10_000, "app.yaml: can't be read as YAML: RecursionError"),
        ("a: 1\n---\nb: 1\n", "app.yaml, line 2, column 1: but found another document"),
    ],
)
def test_text_that_is_no_configuration_says_why_and_where(text: str, says: str) -> None:
    assert says in told(text)


@pytest.mark.spec("P8")
@pytest.mark.parametrize("line", ["password: *hunter2", "password: !hunter2 x", "token: '%hunter2"])
def test_a_line_that_can_t_be_read_is_never_quoted(line: str) -> None:
    assert "hunter2" not in told(f"a: 1\n{line}\n")


def test_an_error_without_a_place_or_behind_the_last_line_is_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import yaml

    def fail(text: str, loader: object) -> None:
        raise yaml.MarkedYAMLError(problem=None)

    monkeypatch.setattr(yaml, "load", fail)
    assert told("a") == "app.yaml: can't be read as YAML"


def test_a_merge_key_is_yaml_s_own_and_may_be_overridden() -> None:
    config = parse(
        "name: shop\n"
        "connections: {main: {provider: memory}}\n"
        "queues:\n"
        "  a: &a {connection: main, fifo: true, visibility: 60.0}\n"
        "  b: {<<: *a, visibility: 30.0}\n"
    )
    assert (config.queues["b"].fifo, config.queues["b"].visibility) == (True, 30.0)


def test_a_file_that_can_t_be_read_says_so(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(ConfigurationError) as caught:
            load(path)
        return str(caught.value)

    missing, binary = tmp_path / "no.yaml", tmp_path / "latin.yaml"
    binary.write_bytes(b"name: caf\xe9\n")
    assert message(missing) == f"{missing}: there is no such file"
    assert message(binary) == f"{binary}: is not UTF-8 text (byte 9)"
    assert message(tmp_path).startswith(f"{tmp_path}: can't be read: ")


def test_a_file_is_named_in_its_errors_and_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("name: F\n", encoding="utf-8-sig")
    with pytest.raises(ConfigurationError, match=r"app\.yaml has 3 problems:\n  name: must be"):
        load(path)
