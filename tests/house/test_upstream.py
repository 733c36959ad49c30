"""What is offered to the toolkits works in the toolkits that are installed."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torchvision.models import vgg16

import msds_plugin

UPSTREAM = Path(__file__).parents[2] / "docs/upstream"
FIXTURES = """
import pytest, torch

@pytest.fixture
def device():
    return "cpu"

@pytest.fixture
def input_tensors():
    return torch.rand(4, 3, 128, 128), torch.rand(4, 3, 128, 128)
"""


def copy_of(toolkit: str, folder: Path) -> Path:
    """A copy of an installed toolkit, to change."""
    spec = find_spec(toolkit)
    if spec is None:
        pytest.skip(f"needs {toolkit}")
    shutil.copytree(spec.submodule_search_locations[0], folder / toolkit, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / toolkit


def run_tests(folder: Path) -> None:
    """Run the tests in ``folder``, and the interpreters that these start, with the toolkit that is copied there."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "tests"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_piq(tmp_path):
    package = copy_of("piq", tmp_path)
    shutil.copy(UPSTREAM / "piq/deepssim.py", package)
    with (package / "__init__.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom .deepssim import DeepSSIMLoss, MSDSLoss\n")
    (tmp_path / "tests").mkdir()
    shutil.copy(UPSTREAM / "piq/test_deepssim.py", tmp_path / "tests")
    (tmp_path / "tests/conftest.py").write_text(FIXTURES, encoding="utf-8")
    run_tests(tmp_path)


@pytest.mark.slow
def test_scores_offered_to_piq_are_ours():
    namespace: dict[str, object] = {"__name__": "deepssim"}
    exec(compile((UPSTREAM / "piq/deepssim.py").read_text(encoding="utf-8"), "deepssim.py", "exec"), namespace)
    torch.manual_seed(0)
    network = vgg16(weights=None)
    state = {key: value for key, value in network.state_dict().items() if key.startswith("features.")}
    x, y = torch.rand(2, 2, 3, 131, 96)
    for loss, metric in (("DeepSSIMLoss", msds_plugin.DeepSSIM), ("MSDSLoss", msds_plugin.MSDS)):
        theirs = namespace[loss](reduction="none", feature_extractor=network.features[:26])
        torch.testing.assert_close(1 - theirs(x, y), metric(weights=state)(x, y), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_pyiqa(tmp_path):
    copy_of("pyiqa", tmp_path)
    if shutil.which("patch") is None:
        pytest.skip("needs patch")
    with (UPSTREAM / "pyiqa/first_call.patch").open() as file:
        done = subprocess.run(["patch", "-p1"], cwd=tmp_path, stdin=file, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (tmp_path / "tests").mkdir()
    shutil.copy(UPSTREAM / "pyiqa/test_plugins.py", tmp_path / "tests")
    run_tests(tmp_path)
    ours = f"import pyiqa; assert pyiqa.__file__.startswith({str(tmp_path)!r}); pyiqa.create_metric('msds-fast')"
    subprocess.run([sys.executable, "-c", ours], cwd=tmp_path, check=True)
