"""The expected figures: what the file is, and that Arrow's sums are those of a plain loop."""

from __future__ import annotations

import ast
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.examples import flights_expected
from pipeline.examples.flights_expected import (
    Figures,
    expected_figures,
    find_flights,
    read_flights,
)

ORDER = ["month", "day", "sched_dep_time"]
HEADER = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,carrier,flight,tailnum,origin,dest,"
    "air_time,distance"
)
ROWS = [
    "2013,2,1,1,600,5,UA,1,N2,EWR,IAH,100,1000",
    "2013,1,2,1,700,-3,UA,2,N1,EWR,IAH,50,500",
    "2013,1,2,NA,600,NA,UA,3,N1,EWR,IAH,NA,700",
    "2013,1,2,1,600,4,UA,4,N2,EWR,IAH,30,300",
    "2013,1,1,NA,2359,NA,UA,5,NA,EWR,IAH,NA,200",
]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Five flights, two of them due at the same time."""
    path = tmp_path / "flights.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("flights.csv", "\n".join([HEADER, *ROWS, ""]))
    return path


def test_flights_are_in_the_order_of_departure_and_equal_times_keep_the_files(small: Path) -> None:
    """Month, day, scheduled time; flights 3 and 4 are due together and stay as they stand."""
    flights = read_flights(small)
    assert flights["flight"].to_pylist() == [5, 3, 4, 2, 1]
    assert flights["position"].to_pylist() == [1, 2, 3, 4, 5]


def test_figures_are_sums_in_which_what_is_missing_counts_as_nothing(small: Path) -> None:
    """A flight without delay and air time counts as a flight with its distance."""
    assert expected_figures(small) == {
        None: Figures(flights=1, delay=0, air_time=0, distance=200, last=1),
        "N1": Figures(flights=2, delay=-3, air_time=50, distance=1200, last=4),
        "N2": Figures(flights=2, delay=9, air_time=130, distance=1300, last=5),
    }


def test_the_installed_file_is_the_one_that_was_promised() -> None:
    """336,776 flights of 4,043 aircraft, 2,512 of them without a tail number; a stable order."""
    flights = read_flights(find_flights())
    due = [tuple(row.values()) for row in flights.select(ORDER).to_pylist()]
    assert len(due) == 336_776
    assert due == sorted(due)
    figures = expected_figures(find_flights())
    assert len(figures) == 4_043 + 1
    assert figures[None].flights == 2_512
    assert sum(one.flights for one in figures.values()) == 336_776
    assert figures["N725MQ"] == Figures(
        flights=575, delay=3753, air_time=48921, distance=321198, last=281717
    )


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the extra is missing, and the error says so."""

    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(flights_expected, "distribution", missing)
    with pytest.raises(ConfigurationError, match=r"pip install 'queue-runtime\[examples\]'"):
        find_flights()


def test_the_expected_figures_know_nothing_of_the_handler() -> None:
    """Else one mistake could be on both sides of the comparison."""
    tree = ast.parse(Path(flights_expected.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    assert {name for name in imported if name.startswith("pipeline")} == {"pipeline.errors"}
