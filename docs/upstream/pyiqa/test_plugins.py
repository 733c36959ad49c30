"""Metrics of other packages, which register through the entry point group ``pyiqa.archs``."""

import subprocess
import sys

import pytest

PLUGIN = '''
import torch

from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils.registry import ARCH_REGISTRY


class Difference(torch.nn.Module):
    def forward(self, x, y):
        return (x - y).abs().mean((1, 2, 3))


def register():
    ARCH_REGISTRY.register(Difference)
    DEFAULT_CONFIGS['difference'] = {
        'metric_opts': {'type': 'Difference'},
        'metric_mode': 'FR',
        'lower_better': True,
        'score_range': '0, 1',
    }
'''


@pytest.fixture
def plugin(tmp_path):
    """A folder with an installed package that brings one metric."""
    (tmp_path / 'plugin_of_a_test.py').write_text(PLUGIN)
    info = tmp_path / 'plugin_of_a_test-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: plugin-of-a-test\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text('[pyiqa.archs]\ntest = plugin_of_a_test:register\n')
    return tmp_path


@pytest.mark.parametrize(
    'first_call',
    [
        "score = pyiqa.create_metric('difference')(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)); assert score.item() == 1",
        "assert 'difference' in pyiqa.list_models()",
        "assert 'difference' in pyiqa.list_models('FR')",
    ],
)
def test_plugin_is_known_to_the_first_call(plugin, first_call):
    code = f'import sys; sys.path.insert(0, {str(plugin)!r}); import torch, pyiqa; {first_call}'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_names_stay_unknown(plugin):
    code = f"import sys; sys.path.insert(0, {str(plugin)!r}); import pyiqa; pyiqa.create_metric('no-such-metric')"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'Metric no-such-metric not implemented yet.' in done.stderr
