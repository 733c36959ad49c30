"""The demonstration: its photographs, its picture, its table."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from msds_plugin.adapters.research import demo


def test_every_change_of_every_photograph_is_worse_the_stronger_it_is():
    photo = demo.photographs()["chelsea"]
    reference = demo.inner(photo)
    for series in demo.SERIES:
        images = [series.apply(photo, strength) for strength in series.strengths]
        sizes = [image.shape[0] for image in images]
        assert sizes == ([243, 230, 205, 166, 128] if series.name == "crop" else [demo.SIZE] * 5)
        if series.name != "crop":
            errors = [np.abs(image.astype(float) - reference).mean() for image in images]
            assert errors == sorted(errors)


def test_the_picture(tmp_path):
    rows = [
        {"photo": name, "distortion": series.name, "level": level, "strength": strength, "a": 0.5, "SSIM": 0.5, "PSNR": 20.0}
        for name in demo.PHOTOGRAPHS[:1]
        for series in demo.SERIES
        for level, strength in enumerate(series.strengths, 1)
    ]
    demo.draw(pd.DataFrame(rows), tmp_path / "a.png", {"a": "A", "SSIM": "SSIM"})
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (1600, 1260)
    with pytest.raises(ValueError, match="its name must end in"):
        demo.check_picture(tmp_path / "a.bin")
    with pytest.raises(FileNotFoundError, match="make it first"):
        demo.check_picture(tmp_path / "no" / "a.png")


@pytest.mark.slow
def test_the_command(tmp_path, msds):
    done = msds("demo", "-o", "demo.png")
    assert len(done.stdout.splitlines()) == 1 + 25
    assert (tmp_path / "demo.png").is_file()
