"""Every Python block and every ``msds`` command in a ``sh`` block of the README and the docs runs as printed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFilter

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A torch home with VGG16's file under its name, its values random: the real one is half a gigabyte."""
    from torchvision import models

    folder = tmp_path_factory.mktemp("home") / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    features = {f"features.{k}": v for k, v in models.vgg16(weights=None).features.state_dict().items()}
    torch.save(features, folder / "vgg16-397923af.pth")
    return folder.parents[1]


@pytest.fixture
def workplace(tmp_path, home, monkeypatch):
    """A folder as a user might stand in: a reference and a distorted image, folders of them, images with opinion scores."""
    skimage_data = pytest.importorskip("skimage.data")
    for folder in ("references", "distorted"):
        (tmp_path / folder).mkdir()
    photograph = Image.fromarray(skimage_data.astronaut()).resize((192, 160))
    for name, image in (("reference.png", photograph), ("distorted.png", photograph.resize((96, 80)).resize((192, 160)))):
        image.save(tmp_path / name)
    for name in ("a.png", "b.png"):
        shutil.copy(tmp_path / "reference.png", tmp_path / "references" / name)
        shutil.copy(tmp_path / "distorted.png", tmp_path / "distorted" / name)
    (tmp_path / "images").mkdir()
    lines = ["reference,distorted,dmos"]
    for scene, left in enumerate(range(0, 240, 48)):
        reference = photograph.resize((384, 320)).crop((left, left, left + 80, left + 72))
        reference.save(tmp_path / "images" / f"{scene}.png")
        for radius in (1, 2, 3, 4):
            reference.filter(ImageFilter.GaussianBlur(radius)).save(tmp_path / "images" / f"{scene}_{radius}.png")
            lines.append(f"{scene}.png,{scene}_{radius}.png,{10 * radius + scene}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    monkeypatch.setenv("TORCH_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs_as_printed(page, workplace):
    blocks = BLOCK.findall(page.read_text())
    python = "\n".join(code for language, code in blocks if language == "python")
    commands = [line for language, code in blocks if language == "sh" for line in code.splitlines() if line.startswith("msds ")]
    if not python and not commands:
        pytest.skip("nothing to run on this page")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    runs = [[sys.executable, "-c", python]] if python else []
    for run in [*runs, *(["sh", "-c", command] for command in commands)]:
        # The demo as on a new machine, without VGG16, which is quicker too.
        home = {"TORCH_HOME": str(workplace)} if run[-1] == "msds demo" else {}
        done = subprocess.run(run, env=environment | home, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, f"{run[-1]}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
