"""`make spec`: which requirements the tests name, and which have no test.

Read from the source, so that nothing is imported or started. The specification lies beside the
checkout where the project is written; elsewhere only the first list is printed.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SPECIFICATION = ROOT.parent / "shared" / "SPEC.md"
REQUIREMENT = re.compile(r"^- ([A-Z]\d+)\b", re.MULTILINE)


def ids_in(source: str) -> Iterator[str]:
    """The arguments of every `pytest.mark.spec(...)` in a file, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.spec":
            yield from (
                argument.value
                for argument in node.args
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )


def in_order(ids: set[str]) -> list[str]:
    """By letter, then by number: F9 before F10."""
    return sorted(ids, key=lambda identifier: (identifier[0], int(identifier[1:])))


def main() -> None:
    """Print both lists."""
    places: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for identifier in ids_in(path.read_text()):
            places[identifier].add(str(path.relative_to(ROOT)))
    lines = [f"{name:4} {', '.join(sorted(places[name]))}" for name in in_order(set(places))]
    if SPECIFICATION.exists():
        required = set(REQUIREMENT.findall(SPECIFICATION.read_text()))
        lines.append(f"without a test: {', '.join(in_order(required - set(places))) or 'none'}")
        if unknown := set(places) - required:
            lines.append(f"not in the specification: {', '.join(sorted(unknown))}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
