"""A user's own program type-checks: names of the package resolve, and their types are what the documentation says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import torch

import msds_plugin
from msds_plugin import MSDS, DeepSSIMLite, Metric, Representation, build_backbone, registry, score

metric: Metric = MSDS(levels=2, backbone="alexnet", weights=None)
x, y = torch.rand(2, 2, 3, 96, 96)
kept: Representation = metric.represent(y)
again: torch.Tensor = metric.compare(metric.represent(x), kept[0])
loss = DeepSSIMLite(backbone=build_backbone("alexnet", weights=None))
names: list[str] = registry.names()
low, high = registry.get(names[0]).score_range
number: float = float(score("a.png", "b.png", "msds-fast"))
version: str = msds_plugin.__version__
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("", None),
        ("from msds_plugin import MSDSFast", 'has no attribute "MSDSFast"'),
        ("MSDS(levels='three')", 'Argument "levels" to "MSDS"'),
        ("wrong: int = registry.names()", "Incompatible types in assignment"),
    ],
    ids=["right", "name", "option", "type"],
)
def test_a_program_under_mypy_strict(tmp_path, more, complaint):
    subprocess.run([sys.executable, str(ROOT / ".ci/layout.py"), str(tmp_path / "installed")], check=True)
    (tmp_path / "program.py").write_text(PROGRAM + more, encoding="utf-8")
    environment = os.environ | {"MYPYPATH": str(tmp_path / "installed")}
    check = [sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent", "--cache-dir", str(tmp_path / "cache")]
    run = [*check, "program.py"]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (complaint is None), done.stdout
    assert (complaint or "Success") in done.stdout
