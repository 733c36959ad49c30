"""The structure of the package: which room may know which, and names that have moved."""

from __future__ import annotations

from importlib import import_module

import pytest

from msds_plugin.adapters.moved import MOVED


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("datasets", "load_csv"),
        ("fit", "fit_fusion"),
        ("large_images", "LargeImage"),
        ("statistics", "srcc"),
        ("summary", "summarise"),
    ],
)
def test_names_of_version_0_1(module, name):
    old = import_module(f"msds_plugin.adapters.{module}")
    assert getattr(old, name) is getattr(import_module(f"msds_plugin.adapters.{MOVED[module]}"), name)
