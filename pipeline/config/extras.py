"""Which of the optional packages are installed, found out without importing any of them.

And so: which providers can be chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.machinery import PathFinder
from importlib.util import find_spec

from pipeline.config.references import closest


def installed(module: str) -> bool:
    """Look for a module without importing anything; `find_spec` alone would import its parents."""
    top, *steps = module.split(".")
    spec = find_spec(top)
    for step in steps:
        if spec is None:
            break
        # By its own name, not the dotted one: a package without an __init__ would ask for its
        # parent, which isn't imported.
        spec = PathFinder.find_spec(step, list(spec.submodule_search_locations or ()))
    return spec is not None


def lacking(extra: str, module: str) -> str:
    """What to install for a module that is missing; "" when it is there.

    Args:
        extra: the extra that brings it.
        module: the module.

    Example:
        >>> lacking("aws", "no_such_module")
        "needs pip install 'queue-runtime[aws]' (no_such_module is missing)"
    """
    if installed(module):
        return ""
    return f"needs pip install 'queue-runtime[{extra}]' ({module} is missing)"


def unusable(provider: object, known: Iterable[str], extras: Mapping[str, tuple[str, str]]) -> str:
    """Why a provider can't be chosen: it is none, or its extra is missing; "" when it can.

    Args:
        provider: as it was written.
        known: the names that there are.
        extras: by name, the extra that one needs and the module that shows whether it is there.

    Example:
        >>> unusable("memry", ["memory"], {})
        'did you mean memory? must be one of: memory'
    """
    names = list(known)
    if provider is None:
        return f"missing: name one of: {', '.join(names)}"
    if not isinstance(provider, str) or provider not in names:
        return f"{closest(provider, names)}must be one of: {', '.join(names)}"
    return lacking(*extras[provider]) if provider in extras else ""
