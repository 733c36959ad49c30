"""Every Python block and every ``msds`` command in a ``sh`` block of the README and the docs runs as printed."""

import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image, ImageFilter
from typer.testing import CliRunner

from msds_plugin import registry
from msds_plugin.adapters.cli.app import app

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Pages that the default suite runs; the others take longer.
QUICK = ("README.md", "docs/toolkits.md", "docs/start/train.md")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def printed(page: Path) -> tuple[str, list[str]]:
    """The Python of a page, in one piece, and its commands."""
    blocks = BLOCK.findall(page.read_text())
    python = "\n".join(code for language, code in blocks if language == "python")
    lines = [line for language, code in blocks if language == "sh" for line in code.replace("\\\n", "").splitlines()]
    return python, [line for line in lines if line.startswith("msds ")]


RUNNABLE = [page for page in PAGES if any(printed(page))]


def _save(image, *paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def _as_trainers_write(folder, sharp, blurred):
    """A view beside its photograph, in the folders of docs/start/rendered-views.md."""
    _save(sharp, folder / "output/garden/test/ours_30000/gt/00000.png", folder / "renders/test/gt-rgb/00000.png")
    _save(blurred, folder / "output/garden/test/ours_30000/renders/00000.png", folder / "renders/test/rgb/00000.png")
    both = Image.new("RGB", (2 * sharp.width, sharp.height))
    both.paste(sharp, (0, 0))
    both.paste(blurred, (sharp.width, 0))
    _save(both, folder / "results/garden/renders/val_step29999_0000.png")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder as a user might stand in, on a machine that has downloaded nothing: images, folders of them, opinion scores."""
    photograph = Image.fromarray(pytest.importorskip("skimage.data").astronaut()).resize((192, 160))
    blurred = photograph.resize((96, 80)).resize((192, 160))
    _save(photograph, tmp_path / "reference.png", *(tmp_path / "references" / name for name in ("a.png", "b.png")))
    _save(blurred, tmp_path / "distorted.png", *(tmp_path / "distorted" / name for name in ("a.png", "b.png")))
    _as_trainers_write(tmp_path, photograph, blurred)
    lines = ["reference,distorted,dmos"]
    for scene, left in enumerate(range(0, 240, 48)):
        reference = photograph.resize((384, 320)).crop((left, left, left + 80, left + 72))
        _save(reference, tmp_path / f"images/{scene}.png", tmp_path / f"GT/{scene}.png")
        for radius in (1, 2, 3, 4):
            _save(reference.filter(ImageFilter.GaussianBlur(radius)), tmp_path / f"images/{scene}_{radius}.png")
            lines.append(f"{scene}.png,{scene}_{radius}.png,{10 * radius + scene}")
        for method, radius in (("edsr", 1), ("bicubic", 2)):
            _save(Image.open(tmp_path / f"images/{scene}_{radius}.png"), tmp_path / f"results/{method}/{scene}.png")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    own = printed(ROOT / "docs/start/write-a-metric.md")[0]
    (tmp_path / "my_metrics.py").write_text(own[: own.index("x, y = ")])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("toolkits_as_before", "workplace")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=name(page), marks=[] if name(page) in QUICK else pytest.mark.slow) for page in RUNNABLE]
)
def test_page_runs_as_printed(page):
    """In this process, which has imported what is slow to import; ``msds demo`` is left to the tests of the command line."""
    python, commands = printed(page)
    known = set(registry.names())
    exec(compile(python, name(page), "exec"), {"__name__": "__main__"})
    for own in set(registry.names()) - known:  # commands start without what the page has registered
        del registry._metrics[own]
    for command in commands:
        if command == "msds demo":
            continue
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_page_runs_as_printed_by_a_user(page):
    """Python in a new interpreter, commands in a shell."""
    python, commands = printed(page)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    runs = [[sys.executable, "-c", python]] if python else []
    for run in [*runs, *(["sh", "-c", command] for command in commands)]:
        done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, f"{run[-1]}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http") and "reference/" not in target:  # these are made with the site, which checks them
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", sorted((ROOT / "docs/start").glob("*.md")), ids=name)
def test_pages_to_start_with_are_short(page):
    assert len(page.read_text().split()) < 250


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
