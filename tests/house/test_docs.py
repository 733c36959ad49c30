"""Every Python block and every ``msds`` command in a ``sh`` block of the README and the docs runs as printed."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from msds_plugin.adapters.cli.app import app
from PIL import Image, ImageFilter
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def printed(page: Path) -> tuple[str, list[str]]:
    """The Python of a page, in one piece, and its commands."""
    blocks = BLOCK.findall(page.read_text())
    python = "\n".join(code for language, code in blocks if language == "python")
    lines = [line for language, code in blocks if language == "sh" for line in code.replace("\\\n", "").splitlines()]
    return python, [line for line in lines if line.startswith("msds ")]


RUNNABLE = [page for page in PAGES if any(printed(page))]


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


def _as_trainers_write(folder):
    """A view beside its photograph, in the folders of docs/start/rendered-views.md."""
    pair = [Image.open(folder / name) for name in ("reference.png", "distorted.png")]
    for both in (
        ("output/garden/test/ours_30000/gt", "output/garden/test/ours_30000/renders"),
        ("renders/test/gt-rgb", "renders/test/rgb"),
    ):
        for place, image in zip(both, pair, strict=True):
            (folder / place).mkdir(parents=True)
            image.save(folder / place / "00000.png")
    canvas = Image.new("RGB", (2 * pair[0].width, pair[0].height))
    for left, image in zip((0, pair[0].width), pair, strict=True):
        canvas.paste(image, (left, 0))
    (folder / "results/garden/renders").mkdir(parents=True)
    canvas.save(folder / "results/garden/renders/val_step29999_0000.png")


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
    _as_trainers_write(tmp_path)
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


@pytest.mark.usefixtures("toolkits_as_before", "workplace")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_page_runs_as_printed(page):
    """In this process, which has imported what is slow to import; ``msds demo`` is left to the tests of the command line."""
    python, commands = printed(page)
    exec(compile(python, name(page), "exec"), {"__name__": "__main__"})
    for command in commands:
        if command == "msds demo":
            continue
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_page_runs_as_printed_by_a_user(page, tmp_path):
    """Python in a new interpreter, commands in a shell."""
    python, commands = printed(page)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    runs = [[sys.executable, "-c", python]] if python else []
    for run in [*runs, *(["sh", "-c", command] for command in commands)]:
        # The demo as on a new machine, without VGG16, which is quicker too.
        home = {"TORCH_HOME": str(tmp_path)} if run[-1] == "msds demo" else {}
        done = subprocess.run(run, env=environment | home, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, f"{run[-1]}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_front_door_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 100


class _Requests(HTMLParser):
    """What a page makes a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        loads = tag in ("script", "img", "iframe", "source") or (tag == "link" and attributes.get("rel") != "canonical")
        if loads:
            self.addresses += [value for key in ("src", "href") if (value := attributes.get(key))]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The documentation as pages, built with warnings as errors."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        found = _Requests()
        found.feed(page.read_text())
        assert found.addresses
        assert not [address for address in found.addresses if urlsplit(address).scheme not in ("", "data")], page


@pytest.mark.slow
def test_the_site_shows_formulas_and_translates_roles(site):
    page = (site / "reference" / "msds_plugin.deepssim.html").read_text()
    assert page.count("<math ") >= 4
    for path in (site / "reference").glob("*.html"):
        assert not re.search(r":(math|class|func|meth|mod|attr|exc|data):|\.\. math::|arithmatex", path.read_text()), path
