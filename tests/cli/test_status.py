"""What `queue-runtime status` says of a run's figures."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.cli.status import _text


def figures(**more: Any) -> dict[str, Any]:
    """Those of a run that does well, but for these."""
    pipeline = {
        "receivers": {"completed": 1_200, "dead_lettered": 3, "in_hand": 40},
        "handlers": {"failed": 5},
        "backlog": None,
        "replaced": 1,
        "p50_ms": 12.5,
        "p99_ms": 80.0,
    }
    return {"name": "shop", "ready": True, "pipelines": {"orders": pipeline}, **more}


@pytest.mark.spec("R2", "O4")
def test_an_open_breaker_is_told_of_and_since_when() -> None:
    """A closed one is not; that the run is not ready because of it is the first line."""
    breakers = {
        "receive": {"state": "half_open", "since": 1_700_000_000.0},
        "send": {"state": "closed", "since": None},
    }
    reason = "connection main: the circuit breaker is open: receive"
    text = _text(figures(ready=False, reason=reason, connections={"main": breakers}))
    first, second, third = text.splitlines()
    assert first == f"shop: not ready: {reason}"
    assert second == (
        "  connection main: receive: the circuit breaker is half-open since 2023-11-14 22:13:20 UTC"
    )
    assert third.startswith("  orders: 1,200 completed, 3 dead-lettered, 5 failures, backlog ?, ")


@pytest.mark.spec("R2", "M2")
def test_of_what_is_well_nothing_is_said() -> None:
    """No breaker is open and nothing expired; where something did, it is told."""
    well = figures(connections={"main": {"send": {"state": "closed", "since": None}}})
    assert len(_text(well).splitlines()) == 2
    assert "expired" not in _text(well)
    well["pipelines"]["orders"]["receivers"]["expired"] = 7
    assert "3 dead-lettered, 7 expired, 5 failures" in _text(well)


@pytest.mark.spec("C9", "O4")
def test_where_bodies_are_sealed_it_is_told_how_they_came() -> None:
    """And nowhere else."""
    well = figures()
    assert "sealed" not in _text(well)
    well["pipelines"]["orders"]["receivers"] |= {"sealed": 1_190, "plain": 10, "refused": 2}
    assert "5 failures, 1,190 sealed, 10 plain, 2 refused, backlog ?" in _text(well)
