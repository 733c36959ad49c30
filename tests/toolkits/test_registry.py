from dataclasses import replace

import pytest
import torch
from torch import nn

from msds_plugin import registry

PUBLISHED = {"deepssim", "deepssim-lite", "deepssim-fast", "msds", "msds-lite", "msds-fast", "msds-hybrid"}


@pytest.fixture
def empty_slot(monkeypatch):
    """A registry whose changes are undone, and that tells nobody."""
    monkeypatch.setattr(registry, "_metrics", dict(registry._metrics))
    monkeypatch.setattr(registry, "_listeners", [])


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_entries_are_complete(name):
    entry = registry.get(name)
    assert entry.summary
    assert "arXiv" in entry.citation
    assert entry.best == (0 if entry.lower_is_better else 1)


def test_fast_metrics_are_what_their_name_says():
    fast = registry.create("msds-fast", levels=2, weights=None)
    assert fast.backbone.name == "efficientnet_lite0"
    assert fast.levels == 2
    with pytest.raises(ValueError, match="use msds"):
        registry.create("msds-fast", backbone="alexnet")


def test_register(empty_slot, own_metric):
    heard = []
    registry.subscribe(heard.append)
    registry.subscribe(heard.append)
    assert [entry.name for entry in heard] == registry.names()
    registry.register(own_metric)
    assert heard[-1] is own_metric
    assert registry.create(own_metric.name)(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)).item() == 1
    with pytest.raises(ValueError, match="'test-difference' is registered already"):
        registry.register(own_metric)
    other = replace(own_metric, title="Other")
    assert registry.register(other, override=True) is registry.get("test-difference") is other


def test_unknown_name_suggests():
    with pytest.raises(KeyError, match="did you mean msds"):
        registry.create("mdsd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Has Space"}, "lower-case"),
        ({"title": "1st"}, "starts with a letter"),
        ({"score_range": (1, 0)}, "score_range"),
        ({"factory": nn.Identity()}, "factory"),
    ],
)
def test_bad_entries(own_metric, change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        replace(own_metric, **change)
