"""What the README shows is what runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The README's code blocks in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The README's handler and configuration, in the current directory."""
    handler, *_ = blocks("python")
    config, *_ = blocks("yaml")
    (tmp_path / "shop.py").write_text(handler)
    (tmp_path / "shop.yaml").write_text(config)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    return tmp_path


@pytest.mark.spec("T4")
def test_the_configuration_of_the_readme_is_right(shop: Path, command: Callable[..., Any]) -> None:
    """`queue-runtime check shop.yaml` accepts it."""
    ended = command("check", "shop.yaml")
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.spec("T4", "P1")
@pytest.mark.parametrize("provider", ["aws_sqs", "azure_service_bus"])
def test_the_configuration_for_a_cloud_moves_the_same_pipeline(
    shop: Path, command: Callable[..., Any], provider: str
) -> None:
    """Its connections and queues in the place of the first ones."""
    first, *clouds = blocks("yaml")
    [cloud] = [text for text in clouds if f"provider: {provider}," in text]
    kept = re.sub(r"^(connections|queues):.*\n(  .*\n)*", "", first, flags=re.MULTILINE)
    (shop / "shop.yaml").write_text(cloud + kept)
    ended = command("check", "shop.yaml")
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.spec("T4", "T1")
def test_the_test_of_the_readme_passes(shop: Path) -> None:
    """The handler of twenty lines does what the README's own test says."""
    _, test, *_ = blocks("python")
    exec(compile(test, "README.md", "exec"), {})


@pytest.mark.spec("T4")
def test_the_program_of_the_readme_is_python() -> None:
    """The block with the runtime compiles; the cluster tests run its like."""
    *_, program = blocks("python")
    compile(program, "README.md", "exec")


@pytest.mark.spec("T4", "F4")
def test_the_handler_with_a_migration_is_one(shop: Path) -> None:
    """It stands on the first block, and reads what that one's predecessor wrote."""
    first, _, newer, _ = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(first + newer, "README.md", "exec"), names)
    made = names["on_order"].kept.migrate({"count": 2, "total": 7}, 1)
    assert names["Account"](**made) == names["Account"](orders=2, total=7)
