"""`pipeline` is usable where Ray and the SDKs are not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
import pipeline

for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
    importlib.import_module(module.name)
unwanted = {"ray", "actors", "azure", "aioboto3", "aiobotocore", "boto3", "botocore"}
sys.exit(", ".join(sorted(unwanted & set(sys.modules))) or None)
"""


@pytest.mark.spec("P1", "P16")
def test_pipeline_imports_neither_ray_nor_an_sdk() -> None:
    """Every module of `pipeline`, imported in one fresh process, brings in none of them."""
    imported = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING], capture_output=True, text=True, check=False
    )
    assert imported.returncode == 0, f"imported or failed: {imported.stderr}"
