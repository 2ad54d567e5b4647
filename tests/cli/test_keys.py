"""`queue-runtime keys`: made, distributed, made current, retired; and never shown."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import keys as keys_command
from pipeline.crypto.keyset import KeySet

ROOT = Path(__file__).parents[2]
CONFIG = """
name: shop
connections: {{main: {{provider: memory}}}}
queues: {{orders: {{connection: main}}}}
crypto: {{ttl: 60.0, keys: {keys}}}
"""


class Calendar:
    """The day on which a command runs."""

    at = 1_800_000_000.0  # 2027-01-15

    def now(self) -> float:
        return self.at


@pytest.fixture
def calendar(monkeypatch: pytest.MonkeyPatch) -> Calendar:
    calendar = Calendar()
    monkeypatch.setattr(keys_command, "SystemClock", lambda: calendar)
    return calendar


@pytest.fixture
def config(tmp_path: Path, calendar: Calendar) -> Path:
    """A configuration whose key set is a file that isn't there yet."""
    path = tmp_path / "shop.yaml"
    path.write_text(CONFIG.format(keys=f"{{provider: file, path: {tmp_path}/keys.json}}"))
    return path


def kept(config: Path) -> KeySet:
    return KeySet.parse(config.with_name("keys.json").read_text(), "keys.json")


@pytest.mark.spec("C5", "C7")
def test_a_key_is_made_made_current_and_retired(
    command: Callable[..., Any], config: Path, calendar: Calendar
) -> None:
    """The first key set is made with the first key; each step says what the next one is."""
    ended = command("keys", "new", config)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "made a key set with key 2027-01-15, which is current\n"
    assert stat.S_IMODE(config.with_name("keys.json").stat().st_mode) == 0o600
    ended = command("keys", "new", config)
    assert ended.code == 0
    assert (
        "made key 2027-01-15-2; 2027-01-15 is current still. In 60 s (crypto.ttl) all " in ended.out
    )
    assert f"then: queue-runtime keys rotate {config}" in ended.out
    assert command("keys", "new", config).out.startswith("made key 2027-01-15-3;")
    assert kept(config).current == "2027-01-15"

    calendar.at += 60
    ended = command("keys", "rotate", config, "--to", "2027-01-15-2")
    assert (ended.code, ended.err) == (0, "")
    assert "key 2027-01-15-2 is current; 2027-01-15 opens what it has sealed" in ended.out
    assert kept(config).ids == ("2027-01-15", "2027-01-15-2", "2027-01-15-3")
    assert command("keys", "rotate", config).out.startswith("key 2027-01-15-3 is current")

    first = kept(config).key("2027-01-15-3")
    ended = command("keys", "retire", config, "2027-01-15")
    assert ended.code == 0
    assert "goes on sealing with it for up to 60 s after another key was made" in ended.err
    assert "key 2027-01-15 is retired: what it sealed can't be opened any more" in ended.out
    assert kept(config).ids == ("2027-01-15-2", "2027-01-15-3")
    assert kept(config).key("2027-01-15-3").matches(first)


@pytest.mark.spec("C5")
def test_a_key_that_not_every_process_has_is_warned_of(
    command: Callable[..., Any], config: Path, calendar: Calendar
) -> None:
    """Also one of which nobody knows since when it is there; it is made current all the same."""
    command("keys", "new", config, "--id", "a")
    command("keys", "new", config, "--id", "b")
    calendar.at += 45
    ended = command("keys", "rotate", config)
    assert (ended.code, ended.out.startswith("key b is current")) == (0, True)
    assert (
        "warning: key b was made 45 s ago, and processes look for new keys within 60 s" in ended.err
    )
    document = json.loads(config.with_name("keys.json").read_text())
    del document["added"]
    config.with_name("keys.json").write_text(json.dumps(document))
    ended = command("keys", "rotate", config, "--to", "a")
    assert ended.code == 0
    assert "warning: key a was made at a time that isn't known" in ended.err


@pytest.mark.spec("C7")
def test_list_is_a_table_or_json(
    command: Callable[..., Any], config: Path, calendar: Calendar
) -> None:
    """Ids, which one is current, and since when each is there."""
    command("keys", "new", config, "--id", "a")
    calendar.at += 86_400
    command("keys", "new", config, "--id", "schlüssel")
    ended = command("keys", "list", config)
    assert (ended.code, ended.err) == (0, "")
    assert [re.split(r" {2,}", line) for line in ended.out.splitlines()] == [
        ["key", "current", "added"],
        ["a", "yes", "2027-01-15T08:00:00+00:00"],
        ["schlüssel", "2027-01-16T08:00:00+00:00"],
    ]
    ended = command("keys", "list", config, "--json")
    assert [json.loads(line) for line in ended.out.splitlines()] == [
        {"id": "a", "current": True, "added": "2027-01-15T08:00:00+00:00"},
        {"id": "schlüssel", "current": False, "added": "2027-01-16T08:00:00+00:00"},
    ]
    assert '"schlüssel"' in ended.out
    document = json.loads(config.with_name("keys.json").read_text())
    del document["added"]
    config.with_name("keys.json").write_text(json.dumps(document))
    assert (
        json.loads(command("keys", "list", config, "--json").out.splitlines()[0])["added"] is None
    )
    assert command("keys", "list", config).out.splitlines()[1:] == [f"{'a':<34}yes", "schlüssel"]


@pytest.mark.spec("C7", "P8")
def test_no_command_shows_a_key(command: Callable[..., Any], config: Path) -> None:
    """Not what it prints, not an error, not with --debug; the file alone has it."""
    shown = []
    for arguments in (
        ("new", config, "--id", "a"),
        ("new", config, "--id", "b"),
        ("new", config, "--id", "b", "--debug"),
        ("list", config),
        ("list", config, "--json"),
        ("rotate", config),
        ("retire", config, "b", "--debug"),
    ):
        ended = command("keys", *arguments)
        shown.append(ended.out + ended.err)
    texts = list(kept(config).texts.values())
    path = config.with_name("keys.json")
    good = path.read_text()
    for broken in (good[:-4], good.replace('"current"', '"curent"'), good.replace("=", "")):
        path.write_text(broken)
        ended = command("keys", "list", config, "--debug")
        assert ended.code == 2
        assert "what it holds is no key set" in ended.err
        shown.append(ended.out + ended.err)
    assert len(texts) == 2
    for text in texts:
        assert text in good
        assert not any(text[:40] in one for one in shown)


@pytest.mark.spec("C5", "P10")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("new", "--id", "a"), "there is a key 'a' already: choose another id"),
        (("new", "--id", ""), "EncryptionKeyId must not be empty"),
        (("rotate",), "key 'b' is the newest key, and current already: make another one, with: q"),
        (("rotate", "--to", "b"), "key 'b' is current: make another one, with: queue-runtime key"),
        (("rotate", "--to", "c"), "there is no key 'c'; there are: a, b"),
        (("retire", "b"), "key 'b' is the current one: make another one current first, with: que"),
        (("retire", "c"), "there is no key 'c'; there are: a, b"),
        (("retire",), "the following arguments are required: ID"),
        (("forget",), "invalid choice"),
    ],
)
def test_what_makes_no_sense_is_told(
    command: Callable[..., Any], config: Path, arguments: tuple[str, ...], told: str
) -> None:
    """One clear line, exit code 2, and nothing is changed."""
    command("keys", "new", config, "--id", "a")
    command("keys", "new", config, "--id", "b")
    command("keys", "rotate", config)
    before = config.with_name("keys.json").read_text()
    action, *more = arguments
    ended = command("keys", action, config, *more)
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err
    assert config.with_name("keys.json").read_text() == before


@pytest.mark.spec("C5", "P10")
def test_the_newest_key_is_the_one_that_came_last(
    command: Callable[..., Any], config: Path, calendar: Calendar
) -> None:
    """Not the one that stands last; where it isn't known, it is asked for."""
    for key_id in ("10", "9"):
        command("keys", "new", config, "--id", key_id)
        calendar.at -= 3600.0
    path = config.with_name("keys.json")
    document = json.loads(path.read_text())
    document["current"] = "9"
    path.write_text(json.dumps(document))
    assert command("keys", "rotate", config).out.startswith("key 10 is current")
    del document["added"]
    path.write_text(json.dumps(document))
    ended = command("keys", "rotate", config)
    assert (ended.code, kept(config).current) == (2, "9")
    assert "which key is the newest isn't known" in ended.err
    assert "say which, with --to: 10, 9" in ended.err


@pytest.mark.spec("P9")
def test_keys_that_go_unprotected_are_warned_of(command: Callable[..., Any], config: Path) -> None:
    """As by a run."""
    keys = "{provider: aws_secrets_manager, secret: s, region: eu-central-1, "
    keys += "endpoint: 'http://127.0.0.1:9', verify: false}"
    config.write_text(CONFIG.format(keys=keys))
    ended = command("keys", "list", config)
    assert ended.code != 0
    assert "crypto.keys.verify is false" in ended.err


def test_a_terminal_without_the_letters_stops_no_command(config: Path) -> None:
    """What it can't write is written as its number."""
    environment = {"PYTHONIOENCODING": "ascii", "PATH": ""}
    for arguments in (("new", "--id", "schlüssel"), ("list",), ("list", "--json")):
        action, *more = arguments
        ended = subprocess.run(
            [sys.executable, "-m", "pipeline", "keys", action, str(config), *more],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        if "--json" in more:
            assert json.loads(ended.stdout)["id"] == "schlüssel"
        else:
            assert rb"schl\xfcssel" in ended.stdout


@pytest.mark.spec("P10")
def test_where_there_is_no_key_set_new_makes_it(command: Callable[..., Any], config: Path) -> None:
    """Every other action says so."""
    for arguments in (("list",), ("rotate",), ("retire", "a")):
        action, *more = arguments
        ended = command("keys", action, config, *more)
        assert (ended.code, ended.out) == (2, "")
        assert (
            f"there is no key set yet: make it, with: queue-runtime keys new {config}" in ended.err
        )


@pytest.mark.spec("C6", "P10")
def test_an_environment_is_listed_and_not_written(
    command: Callable[..., Any], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how its key set is made and changed; nothing secret is printed for it."""
    command("keys", "new", config, "--id", "a")
    text = config.with_name("keys.json").read_text()
    config.write_text(CONFIG.format(keys="{provider: environment, variable: SHOP_KEYS}"))
    ended = command("keys", "list", config)
    assert ended.code == 2
    assert "the variable SHOP_KEYS is not set here: start the process with the key set" in ended.err
    monkeypatch.setenv("SHOP_KEYS", text)
    assert command("keys", "list", config).out.splitlines()[1].startswith("a ")
    for arguments in (("new",), ("rotate",), ("retire", "a")):
        action, *more = arguments
        ended = command("keys", action, config, *more)
        assert (ended.code, ended.out) == (2, "")
        assert (
            "the variable SHOP_KEYS can't be written from here: make and change the k" in ended.err
        )
        assert "{provider: file, path: ...}" in ended.err


@pytest.mark.spec("C6", "P10", "P16")
def test_what_the_command_needs_is_told(
    command: Callable[..., Any], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration that names keys, and the extra."""
    config.write_text(CONFIG.format(keys="null"))
    ended = command("keys", "list", config)
    assert ended.code == 2
    assert "crypto.keys: missing: say where the encryption keys are" in ended.err
    monkeypatch.setattr(keys_command, "lacking", lambda *of: f"needs {of[0]} ({of[1]})")
    ended = command("keys", "list", config)
    assert (ended.code, ended.out) == (2, "")
    assert "queue-runtime keys needs crypto (cryptography)" in ended.err


@pytest.mark.spec("P1", "P16")
def test_the_command_brings_no_cryptography_until_it_runs(
    command: Callable[..., Any], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the other commands run without the extra."""
    for name in list(sys.modules):
        if name.startswith("pipeline.crypto.key") or name == "pipeline.crypto.open":
            monkeypatch.delitem(sys.modules, name)
    assert command("keys", "--help").code == 0
    assert "pipeline.crypto.keyset" not in sys.modules
