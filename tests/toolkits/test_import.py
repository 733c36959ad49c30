"""What ``import msds_plugin`` does and does not do, each in a process of its own."""

from importlib.metadata import entry_points, version

import pytest

WITHOUT_TOOLKITS = "import sys; sys.modules['pyiqa'] = sys.modules['piq'] = None\n"


CODE = {
    "neither torch nor a toolkit is imported": """
import msds_plugin, sys
assert not {"torch", "numpy", "pyiqa", "piq", "pandas", "scipy"} & sys.modules.keys()
assert {"DeepSSIM", "MSDS", "registry", "adapters", "build_backbone"} <= set(dir(msds_plugin))
""",
    "the list of metrics needs neither torch nor pandas": """
import sys
from msds_plugin.adapters.scorers import describe_metrics
assert describe_metrics()[0].name == "msds-auto"
assert not {"torch", "numpy", "pandas"} & sys.modules.keys()
""",
    "neither signals nor torch are touched by pytest's plugin, which every run of pytest loads": """
import signal, sys
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
import msds_command.pytest_plugin
assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
assert not {"torch", "numpy", "msds_plugin"} & sys.modules.keys()
""",
    "it works without the toolkits": """
import msds_plugin, torch
x = torch.rand(1, 3, 64, 64)
assert msds_plugin.DeepSSIM("alexnet", weights=None)(x, x).item() == 1
assert "msds" in msds_plugin.registry.names()
""",
    "it is light": """
import sys, torch, torchvision
before = set(sys.modules)
import msds_plugin
heavy = {"pandas", "rich", "typer", "matplotlib", "skimage", "scipy.stats", "timm", "PIL.ImageShow", "pyarrow"}
assert not heavy & (sys.modules.keys() - before)
""",
}


@pytest.mark.parametrize("what", [pytest.param(what, marks=[pytest.mark.slow] * ("neither" not in what)) for what in CODE])
def test_import(python, what):
    done = python(("" if "neither" in what else WITHOUT_TOOLKITS) + CODE[what])
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("toolkit", ["pyiqa", "piq"])
def test_a_broken_toolkit_says_so_itself_and_costs_nothing_else(tmp_path, python, toolkit):
    other = {"pyiqa": "piq", "piq": "pyiqa"}[toolkit]
    (tmp_path / toolkit).mkdir()
    (tmp_path / toolkit / "__init__.py").write_text("raise RuntimeError('half an upgrade')")
    code = f"""
import warnings
warnings.simplefilter("error", RuntimeWarning)
import msds_plugin, torch, {other}
x = torch.rand(1, 3, 64, 64)
assert msds_plugin.DeepSSIM("alexnet", weights=None)(x, x).item() == 1
assert hasattr(piq, "msds") if "{other}" == "piq" else "msds" in pyiqa.list_models()
try:
    import {toolkit}
except RuntimeError as error:
    assert "half an upgrade" in str(error)
else:
    raise AssertionError
"""
    python(code)


@pytest.mark.parametrize("first", ["", "import {toolkit}\n"])
@pytest.mark.parametrize("toolkit", [pytest.param("pyiqa", marks=pytest.mark.slow), "piq"])
def test_a_toolkit_that_we_do_not_fit_works_and_gives_one_warning(tmp_path, python, toolkit, first):
    (tmp_path / toolkit).mkdir()
    (tmp_path / toolkit / "__init__.py").write_text("fine = True")  # none of what we need is there
    code = f"""
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    {first.format(toolkit=toolkit).strip()}
    import msds_plugin, {toolkit}
ours = [str(w.message) for w in caught if w.category is RuntimeWarning]
assert len(ours) == 1 and "cannot be registered in {toolkit}" in ours[0], ours
assert {toolkit}.fine
"""
    python(code)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["import msds_plugin, pyiqa, piq", "import pyiqa, piq, msds_plugin"])
def test_either_import_order_and_no_side_effects(python, order):
    code = f"""
import torch, torchvision
torch.manual_seed(7)
def state():
    b = torch.backends
    return (torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
            b.cudnn.benchmark, b.cudnn.deterministic, b.cuda.matmul.allow_tf32, b.mkldnn.enabled,
            torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision())
before = state()
{order}
assert state() == before
names = pyiqa.list_models()
assert {{"deepssim", "deepssim-lite", "deepssim-fast", "msds", "msds-lite", "msds-fast"}} <= set(names)
assert piq.DeepSSIMLoss and piq.MSDSLoss and piq.deepssim and piq.msds
from msds_plugin.adapters.piq import MSDSLoss, msds
assert MSDSLoss is piq.MSDSLoss and msds is piq.msds
"""
    assert python(code).stdout == ""


@pytest.mark.slow
def test_entry_point_of_pyiqa(python):
    assert any(entry.value.startswith("msds_plugin") for entry in entry_points(group="pyiqa.archs"))
    code = """
import pyiqa, sys
pyiqa.create_metric("psnr")                     # looks a name up, which loads the entry points
assert "msds_plugin" in sys.modules
assert "msds-fast" in pyiqa.list_models()
pyiqa.create_metric("msds-fast")
"""
    if tuple(map(int, version("pyiqa").split(".")[:3])) < (0, 1, 16):
        pytest.skip("this pyiqa has no entry points yet")
    python(code)
