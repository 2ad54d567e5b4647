"""`queue-runtime check`, and what all commands share: exit codes, messages, `--debug`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import COMMANDS, check
from pipeline.config import load, parse
from pipeline.errors import ConfigurationError, ConnectionFailed, ValidationError

ROOT = Path.cwd()
QUICKSTART = ROOT / "configs/quickstart.yaml"

HEAD = """
name: shop
connections: {main: {provider: memory}}
queues: {orders: {connection: main, fifo: true}, plain: {connection: main}}
"""

HANDLERS = """
from pipeline.handlers.api import handler

@handler
def on_order(body: bytes) -> None: ...

@handler(state=dict)
def counted(body: bytes, state: dict) -> None: ...

def bare(body): ...

class Bare: ...

class Job:
    async def feed(self, client): ...

class Idle: ...

class Blocking:
    def check(self, states): ...

class Permanent(Exception): ...
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a configuration into a directory that has a module of handlers, and goes there."""
    module = f"handlers_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        path = tmp_path / "shop.yaml"
        path.write_text(HEAD + text.replace("HERE", module))
        return path

    return write


def pipeline(handler: str, queue: str = "orders", more: str = "") -> str:
    return f"pipelines: {{p: {{queue: {queue}, handler: 'HERE:{handler}'{more}}}}}\n"


def test_a_right_file_is_shown_resolved_and_reads_back(command: Any) -> None:
    ended = command("check", QUICKSTART)
    assert (ended.code, ended.err) == (0, "")
    assert "sessions: native" in ended.out
    assert parse(ended.out).pipelines == load(QUICKSTART).pipelines


def test_a_handler_beside_the_configuration_is_found(command: Any, shop: Any) -> None:
    path = shop(pipeline("counted") + "job: HERE:Job\n")
    ended = command("check", path.name)
    assert (ended.code, ended.err) == (0, "")


def test_a_configuration_without_pipelines_is_right(command: Any) -> None:
    assert command("check", ROOT / "configs/memory.yaml").code == 0


@pytest.mark.spec("P5", "H5")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (pipeline("on_ordr"), "pipelines.p.handler: module 'HERE' has no 'on_ordr'; did you mean"),
        (
            pipeline("bare"),
            "pipelines.p.handler: HERE:bare is not a handler but of type function; decorate it",
        ),
        (pipeline("Bare"), "pipelines.p.handler: HERE:Bare is not a handler but a class; decorate"),
        (
            pipeline("counted", "plain"),
            "pipelines.p.handler: HERE:counted keeps state for each session, and queue plain keeps "
            "no sessions in order: set queues.plain.fifo: true",
        ),
        (
            pipeline("on_order", more=", retry: {exceptions: {HERE.Permanant: reject}}"),
            "pipelines.p.retry.exceptions.HERE.Permanant: module 'HERE' has no 'Permanant'; "
            "did you mean Permanent?",
        ),
        ("job: 'HERE:Jobb'\n", "job: module 'HERE' has no 'Jobb'; did you mean Job?"),
        ("job: 'HERE:bare'\n", "job: HERE:bare must be a class; it is of type function"),
        ("job: 'HERE:Idle'\n", "job: HERE:Idle has neither of async feed(client) and async check"),
        ("job: 'HERE:Blocking'\n", "job: HERE:Blocking.check must be an async method"),
        ("job: 'nowhere:Job'\n", "job: there is no module 'nowhere'; it must be installed, or lie"),
        ("jobs: x\n", "jobs: unknown key; did you mean job?"),
    ],
)
def test_a_wrong_path_or_a_contradiction_ends_with_2_and_one_message(
    command: Any, shop: Any, text: str, says: str
) -> None:
    path = shop(text)
    ended = command("check", path)
    (module,) = [found.stem for found in path.parent.glob("handlers_*.py")]
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith(f"queue-runtime: error: {path}: {says.replace('HERE', module)}")
    assert ended.err.count("\n") == 1


def test_all_wrong_paths_are_told_at_once(command: Any, shop: Any) -> None:
    exceptions = ", retry: {exceptions: {nowhere.Gone: reject, ValueError: retry}}"
    path = shop(pipeline("bare", more=exceptions) + "job: 'HERE:Idle'\n")
    lines = command("check", path).err.splitlines()
    assert lines[0] == f"queue-runtime: error: {path}: 3 problems:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "pipelines.p.handler",
        "pipelines.p.retry.exceptions.nowhere.Gone",
        "job",
    ]


@pytest.mark.parametrize("given", ["no-such-file.yaml", ".", "pyproject.toml"])
def test_a_file_that_is_no_configuration_ends_with_2(command: Any, given: str) -> None:
    ended = command("check", given)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"queue-runtime: error: {given}")
    assert "Traceback" not in ended.err


@pytest.mark.spec("P8")
def test_a_secret_is_not_printed_and_its_path_is(
    command: Any, shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shop("retry: {password: hunter2}\n")
    for debug in ("0", "1"):
        monkeypatch.setenv("QR_DEBUG", debug)
        ended = command("check", path)
        assert "hunter2" not in ended.err
        assert "retry.password: unknown key; the keys here are: max_attempts" in ended.err


# --- what all commands share ----------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("chek",), ("check",), ("check", "a", "b"), ("--no",)])
def test_wrong_usage_ends_with_2(command: Any, arguments: tuple[str, ...]) -> None:
    ended = command(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "usage: queue-runtime" in ended.err


def test_help_and_version(command: Any) -> None:
    assert command("--version").out.startswith("queue-runtime ")
    shown = command("--help")
    assert shown.code == 0
    assert all(name in shown.out for name in COMMANDS)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigurationError("not there"), 2, "error: not there"),
        (ValidationError("count", "must be more than 0", 0), 2, "error: count must be more than 0"),
        (ConnectionFailed("to x, password=hunter2"), 1, "error: to x, password=***"),
        (KeyError("token=hunter2"), 1, "error: unexpected KeyError: 'token=***"),
    ],
)
def test_an_error_becomes_one_message_and_its_code(
    command: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, message: str
) -> None:
    def fail(arguments: object) -> int:
        raise error

    monkeypatch.setattr(check, "run", fail)
    ended = command("check", "x")
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith(f"queue-runtime: {message}")
    assert ended.err.count("\n") == 1
    assert "hunter2" not in ended.err
    for arguments in (("--debug", "check", "x"), ("check", "x", "--debug")):
        assert "Traceback" in command(*arguments).err


def test_an_interrupt_ends_with_130(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "run", interrupt)
    assert command("check", "x").code == 130


def test_the_current_directory_comes_first_on_the_module_path(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        command("check", QUICKSTART)
        assert sys.path[0] == str(tmp_path)
        assert sys.path.count(str(tmp_path)) == 1


def process(*code: str, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *code], cwd=ROOT, stderr=subprocess.PIPE, **more)


def test_python_m_pipeline_is_the_same_command() -> None:
    with process("-m", "pipeline", "check", "no.yaml", stdout=subprocess.PIPE) as running:
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (2, b"")
    assert err == b"queue-runtime: error: no.yaml: there is no such file\n"


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    """As in `queue-runtime check FILE | true`."""
    with process("-m", "pipeline", "check", str(QUICKSTART), stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.close()
        assert running.stderr is not None
        err = running.stderr.read()
        running.wait(timeout=60)
    assert (running.returncode, err) == (1, b"")


@pytest.mark.spec("P16")
def test_check_needs_no_ray() -> None:
    """Where Ray can't be imported the command does all it does elsewhere."""
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from pipeline.__main__ import main\n"
        f"sys.exit(main(['check', {str(QUICKSTART)!r}]))"
    )
    with process("-c", code, stdout=subprocess.DEVNULL) as running:
        _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (0, b"")
