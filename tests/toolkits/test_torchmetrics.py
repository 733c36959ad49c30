"""The metrics in torchmetrics, by torchmetrics' own habits, and in Lightning."""

import copy
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torchmetrics import MetricCollection, MetricTracker
from torchmetrics.wrappers import Running

import msds_plugin.adapters.torchmetrics as ours
from msds_plugin import registry
from msds_plugin.adapters.torchmetrics import DeepSSIMFast, FullReference, MSDSFast, MSDSLiteFast

SMALL = {"backbone": "alexnet", "weights": None}
QUICK = {"deepssim-lite-fast"}
NAMES = [name for name in registry.names() if name != "spips"]  # which has no weights


def batches(count=4):
    """Of different sizes: 1, 2, 3, 1, ... images."""
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        y = torch.rand(1 + index % 3, 3, 64, 64, generator=generator)
        yield (y + 0.1 * (1 + index) * torch.rand(y.shape, generator=generator)).clamp(0, 1), y


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NAMES])
def test_functional_class_and_accumulation_agree(name):
    row = registry.get(name)
    options = {**(SMALL if row.takes_backbone else {}), **({"levels": 2} if row.takes_backbone and row.multiscale else {})}
    torch.manual_seed(0)
    module = registry.create(name, **options)
    each = torch.cat([module(x, y) for x, y in batches(3)])
    for reduction, wanted in (("mean", each.double().mean().float()), ("none", each)):
        torch.manual_seed(0)
        metric = getattr(ours, row.title.replace("-", ""))(reduction, **options)
        assert metric.higher_is_better is not row.lower_is_better
        assert metric.is_differentiable
        for x, y in batches(3):
            torch.manual_seed(0)
            function = getattr(ours, name.replace("-", "_"))(x, y, reduction, **options)
            # torchmetrics makes a scalar of a single score
            torch.testing.assert_close(metric(x, y).reshape(function.shape), function, rtol=0, atol=1e-6)
        torch.testing.assert_close(metric.compute(), wanted, rtol=0, atol=1e-6)
        metric.reset()
        x, y = next(batches())
        metric.update(x, y)
        torch.testing.assert_close(metric.compute(), module(x, y).squeeze())


def test_forward_has_a_gradient_and_the_state_no_graph():
    for reduction in ("mean", "none"):
        metric = MSDSFast(reduction)
        for x, y in batches(2):
            x = x.clone().requires_grad_()
            (1 - metric(x, y)).sum().backward()
            assert x.grad.abs().sum() > 0
        assert not metric.compute().requires_grad
        assert torch.equal(copy.deepcopy(metric).compute(), metric.compute())


def test_a_collection_and_its_copies():
    metric = MetricCollection({"msds": MSDSFast(), "all": MSDSFast("none"), "psnr": FullReference("psnr")}, prefix="val/")
    copies = [metric, metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))]
    for each in copies:
        for x, y in batches(3):
            each.update(x, y)
    values = [{name: value.tolist() for name, value in each.compute().items()} for each in copies]
    assert values[0].keys() == {"val/msds", "val/all", "val/psnr"}
    assert all(value == values[0] for value in values)
    late = copy.deepcopy(metric)  # takes along what is accumulated, and shares nothing
    late.update(y, y)
    assert late["msds"].compute() > metric["msds"].compute()
    metric.reset()
    metric.update(y, y)
    assert metric["msds"].compute() == 1


def test_wrappers_of_torchmetrics():
    (x, y), _ = batches(2)
    running = Running(MSDSFast(), window=1)
    running.update(x, y)
    running.update(y, y)
    assert running.compute() == 1
    tracker = MetricTracker(MSDSLiteFast())
    for image in (x, y):
        tracker.increment()
        tracker.update(image, y)
    assert tracker.best_metric(return_step=True) == (0, 1)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_metrics_of_a_collection_that_agree_at_first_keep_values_of_their_own(reduction):
    make = {"fine": lambda: DeepSSIMFast(reduction), "coarse": lambda: DeepSSIMFast(reduction, layers="stage2")}
    together = MetricCollection({name: build() for name, build in make.items()})
    alone = {name: build() for name, build in make.items()}
    (_, target), pair = list(batches(2))
    for _ in range(2):
        for x, y in ((target, target), pair):  # identical images first: all give 1
            together.update(x, y)
            for metric in alone.values():
                metric.update(x, y)
        for name, value in together.compute().items():
            torch.testing.assert_close(value, alone[name].compute(), rtol=0, atol=0)
        for metric in (together, *alone.values()):
            metric.reset()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_batch_that_is_refused_leaves_the_metric_as_it_was(reduction):
    metric = MSDSFast(reduction)
    (x, y), _ = batches(2)
    before = metric(x, y)
    with pytest.raises(ValueError, match="vmap cannot: take the metric itself"):
        torch.func.vmap(lambda a, b: metric(a[None], b[None]))(x, y)
    for add in (metric, metric.update):
        with pytest.raises(ValueError, match="NaN"):
            add(x / 0 * 0, y)
    assert torch.equal(metric.compute(), before)
    metric.reset()
    assert torch.func.grad(lambda image: metric(image, y).sum())(x).abs().sum() > 0


def test_metrics_of_the_toolkits_by_name():
    metric = FullReference("psnr")
    assert metric.higher_is_better
    assert not metric.is_differentiable
    x, y = next(batches())
    torch.testing.assert_close(metric(x, y), -10 * (x - y).square().mean().log10(), rtol=1e-4, atol=0)
    assert not FullReference("piq:gmsd").higher_is_better
    assert FullReference("msds-fast,levels=2")(x, y) == MSDSFast(levels=2)(x, y)
    with pytest.raises(ValueError, match="did you mean"):
        FullReference("psnrr")
    with pytest.raises(ValueError, match="reduction"):
        FullReference("psnr", "sum")
    with pytest.raises(ValueError, match="x is an empty batch"):
        metric.update(x[:0], y[:0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_other_types(dtype):
    x, y = (image.to(dtype) for image in next(batches()))
    metric = MSDSFast()
    assert metric(x, y) == MSDSFast()(x.float(), y.float())
    metric.set_dtype(torch.float16)
    metric.reset()
    for _ in range(3):
        metric.update(x, y)
    assert float(metric.compute()) == pytest.approx(float(MSDSFast()(x.float(), y.float())), rel=1e-6)
    assert metric.count.dtype == torch.int64  # half precision counts no further than 2048


def test_names_that_are_taken_are_left_alone(own_metric):
    registry.register(own_metric)
    registry.register(own_metric, override=True)
    with pytest.warns(RuntimeWarning) as caught:
        registry.register(replace(own_metric, name="test_difference", title="Tensor"))
    said = [str(warning.message) for warning in caught if "torchmetrics" in str(warning.message)]
    assert [text.split()[2] for text in said] == ["'test_difference'", "'Tensor'"]
    assert ours.TestDifference().name == "test-difference"
    assert ours.Tensor is torch.Tensor


def test_plot():
    import matplotlib

    matplotlib.use("Agg")
    metric = MSDSFast()
    assert metric.plot_upper_bound == 1
    values = [metric(x, y) for x, y in batches(2)]
    assert metric.plot(values)[0] is not None


PROCESS = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, {tests!r})
from test_torchmetrics import batches
from msds_plugin.adapters.torchmetrics import MSDSFast
rank, world = int(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=rank, world_size=world)
mean, every = MSDSFast(), MSDSFast("none")
mine = list(batches(5))[rank::world]
for x, y in mine:
    mean.update(x, y)
    every.update(x, y)
print(repr(mean.compute().item()), sorted(every.compute().tolist()))
"""


@pytest.mark.slow
def test_two_processes_with_uneven_batches_give_the_number_of_one(tmp_path):
    code = PROCESS.format(tests=str(Path(__file__).parent))
    said = []
    for world in (1, 2):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        commands = [
            [sys.executable, "-c", code, str(rank), str(world), str(tmp_path / f"meet{world}")] for rank in range(world)
        ]
        for run in [subprocess.Popen(command, **pipes) for command in commands]:
            out, error = run.communicate(timeout=300)
            assert run.returncode == 0, error
            said.append(out)
    assert len(set(said)) == 1, said


@pytest.mark.slow
def test_lightning_loop_with_the_metric_logged_and_as_loss(tmp_path):
    import lightning

    class Denoiser(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Conv2d(3, 3, 3, padding=1)
            self.loss = ours.MSDSLite(**SMALL, levels=1)
            self.quality = MSDSFast()

        def training_step(self, batch, _):
            x, y = batch
            loss = self.loss(x + 0.1 * self.net(x), y)
            self.log("loss", loss, on_step=True)
            return loss

        def validation_step(self, batch, _):
            x, y = batch
            self.quality.update((x + 0.1 * self.net(x)).clamp(0, 1), y)
            self.log("quality", self.quality)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    model = Denoiser()
    before = model.net.weight.detach().clone()
    data = list(batches(4))
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    loader = torch.utils.data.DataLoader(data, batch_size=None)
    trainer.fit(model, loader, loader)
    assert not torch.equal(model.net.weight, before)
    check = MSDSFast()
    for x, y in data:
        with torch.no_grad():
            check.update((x + 0.1 * model.net(x)).clamp(0, 1), y)
    torch.testing.assert_close(trainer.callback_metrics["quality"].cpu(), check.compute(), rtol=0, atol=1e-6)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert set(torch.load(checkpoint, weights_only=False)["state_dict"]) == {"net.weight", "net.bias"}
