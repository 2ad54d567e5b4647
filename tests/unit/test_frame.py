"""What the project promises beside its code: its constraints, its command, its documentation."""

from __future__ import annotations

import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+")


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    """No index, URL, path or option: the file means the same on every machine."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    versions = [line for line in lines if line and not line.startswith("#")]
    assert versions
    assert [line for line in versions if not PINNED.fullmatch(line)] == []


@pytest.mark.spec("P16")
def test_constraints_pin_what_a_checkout_installs() -> None:
    """Each direct requirement of `make` has its version in the constraints."""
    extras = PROJECT["optional-dependencies"]
    wanted = PROJECT["dependencies"] + extras["cluster"] + extras["examples"] + extras["dev"]
    names = {re.split(r"[\[<>=]", requirement)[0].lower() for requirement in wanted}
    pinned = {
        line.split("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    assert names - pinned == set()


@pytest.mark.spec("P16")
def test_sdks_are_extras_with_their_major_version_pinned() -> None:
    """The base installs without Ray and without any SDK; each extra stops below the next major."""
    extras = PROJECT["optional-dependencies"]
    sdks = extras["cluster"] + extras["aws"] + extras["azure"]
    unpinned = [sdk for sdk in sdks if not re.fullmatch(r"[a-z0-9\-\[\]]+>=\d+[\d.]*,<\d+", sdk)]
    assert unpinned == []
    base = {re.split(r"[<>=]", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert base == {"numpy", "pyarrow", "pydantic", "PyYAML"}


@pytest.mark.spec("F9")
def test_the_command_is_the_one_of_python_m_pipeline() -> None:
    """`queue-runtime` and `python -m pipeline` start the same function."""
    module, _, function = PROJECT["scripts"]["queue-runtime"].partition(":")
    assert module == "pipeline.__main__"
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.spec("T4")
@pytest.mark.parametrize("package", ["pipeline", "pipeline.testing", "actors"])
def test_public_names_have_a_docstring_with_an_example(package: str) -> None:
    """What a package names as public is explained, with an example that the docs step runs."""
    module = importlib.import_module(package)
    assert module.__all__, f"{package} names nothing as public"
    public = {name: getattr(module, name) for name in module.__all__}
    unexplained = [name for name, value in public.items() if ">>>" not in own_docstring(value)]
    assert unexplained == [], f"{package}: no example in the docstring of {unexplained}"


def own_docstring(value: object) -> str:
    """A class's, function's or module's own docstring: an inherited one explains something else."""
    if inspect.isclass(value):
        return value.__dict__.get("__doc__") or ""
    if inspect.isroutine(value) or inspect.ismodule(value):
        return inspect.getdoc(value) or ""
    return ""
