"""Finding what a configuration's paths name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import import_exception, import_object
from pipeline.errors import ConfigurationError


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def told(path: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        import_object(path, "job")
    return caught.value


def test_an_attribute_is_found_also_a_nested_one() -> None:
    assert import_object("pathlib:Path.cwd", "job") == Path.cwd


@pytest.mark.parametrize("path", ["json", "json:", ":loads", ""])
def test_a_path_without_both_parts_is_refused(path: str) -> None:
    assert str(told(path)) == f"job: must be 'module:attribute'; got {path!r}"


def test_a_module_that_is_not_there_is_named_with_the_part_that_is_missing() -> None:
    error = told("json.nothing.here:x")
    assert str(error).startswith("job: there is no module 'json.nothing'; it must be installed")
    assert isinstance(error.__cause__, ModuleNotFoundError)


def test_a_module_that_lacks_another_one_is_told_apart_from_one_that_is_not_there(
    modules: Path,
) -> None:
    (modules / "lacking_one.py").write_text("import nothing_of_that_name")
    error = told("lacking_one:x")
    assert str(error) == (
        "job: importing module 'lacking_one' failed with ModuleNotFoundError: "
        "No module named 'nothing_of_that_name'"
    )


@pytest.mark.spec("P8")
def test_a_module_that_fails_is_told_with_its_cause_and_without_secrets(modules: Path) -> None:
    (modules / "failing_one.py").write_text("raise RuntimeError('password=hunter2')")
    error = told("failing_one:x")
    assert (
        str(error) == "job: importing module 'failing_one' failed with RuntimeError: password=***"
    )
    assert isinstance(error.__cause__, RuntimeError)
    assert error.causes == (("RuntimeError", "password=***"),)


def test_a_module_that_ends_the_interpreter_ends_only_its_import(modules: Path) -> None:
    (modules / "exiting_one.py").write_text("raise SystemExit(3)")
    assert "failed with SystemExit: 3" in str(told("exiting_one:x"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("json:lods", "job: module 'json' has no 'lods'; did you mean loads?"),
        ("json:qqqqq", "job: module 'json' has no 'qqqqq'"),
        ("pathlib:Path.cwdd", "job: object 'Path' has no 'cwdd'; did you mean cwd?"),
        ("math:pi.zzzzz", "job: object '3.141592653589793' has no 'zzzzz'"),
    ],
)
def test_an_attribute_that_is_not_there_names_a_close_one(path: str, text: str) -> None:
    assert str(told(path)) == text


@pytest.mark.spec("H5")
def test_an_exception_is_found_by_its_dotted_name_or_among_the_builtins() -> None:
    assert import_exception("ValueError", "retry") is ValueError
    assert import_exception("pipeline.errors.Closed", "retry").__name__ == "Closed"


@pytest.mark.spec("H5")
@pytest.mark.parametrize("name", ["KeyboardInterrupt", "json.loads", "int"])
def test_what_is_no_exception_s_class_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an exception's class; name one that is"):
        import_exception(name, "retry")
