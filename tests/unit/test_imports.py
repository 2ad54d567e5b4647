"""`pipeline` is usable where Ray and the SDKs are not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
import pipeline

def walk(path, prefix):
    for module in pkgutil.iter_modules(path, prefix):
        *_, package, name = module.name.split(".")
        if package in ("providers", "keys") and name in ("aws", "azure"):
            continue  # the SDK's edge: chosen by the configuration, imported at no other time
        found = importlib.import_module(module.name)
        if module.ispkg:
            walk(found.__path__, module.name + ".")

walk(pipeline.__path__, "pipeline.")
unwanted = {"ray", "actors", "azure", "aioboto3", "aiobotocore", "boto3", "botocore"}
sys.exit(", ".join(sorted(unwanted & set(sys.modules))) or None)
"""


@pytest.mark.spec("P1", "P16")
def test_pipeline_imports_neither_ray_nor_an_sdk() -> None:
    """Every module but those at an SDK's edge, in one fresh process, brings in none of them."""
    imported = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING], capture_output=True, text=True, check=False
    )
    assert imported.returncode == 0, f"imported or failed: {imported.stderr}"
