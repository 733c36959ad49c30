"""What runs a network: torch, with gradients and everything else that torch has, or OpenVINO, faster on a CPU and without."""

from __future__ import annotations

import copy
import math
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msds_plugin.errors import MissingDependencyError

__all__ = ["Compiled", "Runtime", "has_openvino"]

Runtime: TypeAlias = Literal["torch", "openvino"]

#: Kernels that OpenVINO keeps, each for one size of maps: with ever new sizes its 5000 would take gigabytes.
KERNELS = 64

#: Uses of one size after which a model is compiled for it: a tenth faster at 384 x 512; and how many such models are kept.
RECURRING, KEPT = 32, 4

#: Processes that compiled a model, this one or those that it was forked from.
_compiled_in: set[int] = set()

#: Held where something of the whole process is changed for a moment: two threads would put back each other's change.
_ONE_BY_ONE = threading.Lock()

#: Side in pixels of the example that a module is traced with, if that is large enough: small is fast.
SIDE = 128


def has_openvino() -> bool:
    """Whether OpenVINO is installed; it is not imported."""
    return find_spec("openvino") is not None


class Compiled:
    """A module that OpenVINO runs on a CPU: images (N, C, H, W) of any size to a tuple of tensors.

    The module is copied, so that what happens to it later changes nothing, and compiled at the first call for all sizes, and
    again for sizes that recur. Under autocast it computes in bfloat16 where the processor can. Safe to call from several
    threads.

    Args:
        module: tensors to a tuple or list of tensors.
        smallest: shortest side in pixels of the images that it takes.
        runtime: ``"openvino"``, the only one.

    Raises:
        ValueError: an unknown name of a runtime.
        MissingDependencyError: OpenVINO is not installed.
    """

    def __init__(self, module: nn.Module, smallest: int, runtime: str = "openvino") -> None:
        if runtime != "openvino":
            raise ValueError(f"unknown runtime {runtime!r}: choose torch or openvino")
        if not has_openvino():
            raise MissingDependencyError("runtime='openvino' needs OpenVINO: pip install 'msds-plugin[fast]'")
        self.smallest = smallest
        self.module = copy.deepcopy(module).requires_grad_(False).eval().float()  # its inputs are, whatever they were
        self._lock = threading.RLock()
        self._graphs: dict[tuple[int, bool, int], _Graph] = {}

    def __call__(self, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        """What the module returns for these tensors.

        Raises:
            ValueError: tensors that want gradients, or that are not on the CPU.
            RuntimeError: this process was forked from one in which OpenVINO ran: its threads are not here, and it would hang.
        """
        if _compiled_in - {os.getpid()}:
            raise RuntimeError(
                "OpenVINO does not work in a process forked from one that used it: start processes by spawn or forkserver, "
                "use the metric only after the fork, or make it with runtime='torch'"
            )
        given = [tensor for tensor in tensors if tensor is not None]
        for tensor in given:
            self.check(tensor)
        given = [tensor.detach().float().contiguous() for tensor in given]
        return self._model(given)(given)

    @staticmethod
    def check(tensor: Tensor) -> None:
        """Raise a ValueError for a tensor that wants gradients, or that is not on the CPU."""
        if tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError("runtime='openvino' computes no gradients: make the metric with runtime='torch', or detach")
        if tensor.device.type != "cpu":
            raise ValueError(f"runtime='openvino' runs on the CPU, the image is on {tensor.device}: use runtime='torch'")

    def _model(self, example: Sequence[Tensor]) -> _Model:
        key = (len(example), torch.is_autocast_enabled("cpu"), torch.get_num_threads())
        with self._lock:
            if key not in self._graphs:
                self._graphs[key] = _Graph(self.module, self.smallest, example, half=key[1])
            return self._graphs[key].model(tuple([tuple(tensor.shape) for tensor in example]))

    def __reduce__(self) -> tuple[Any, ...]:
        return Compiled, (self.module, self.smallest)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return self  # nothing in it can be changed


class _Graph:
    """A module as OpenVINO's graph, and the models compiled of it: one for all sizes, and some for sizes that recur."""

    def __init__(self, module: nn.Module, smallest: int, example: Sequence[Tensor], half: bool) -> None:
        openvino = _openvino()
        _compiled_in.add(os.getpid())
        self.graph = _convert(module, smallest, example)
        self.graph.reshape({place: openvino.PartialShape([-1, each.shape[1], -1, -1]) for place, each in enumerate(example)})
        threads = torch.get_num_threads()
        streams = max(1, cores() // threads)  # requests that run side by side
        self.properties = {
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
            "INFERENCE_NUM_THREADS": threads * streams,
            "NUM_STREAMS": streams,
            "CPU_RUNTIME_CACHE_CAPACITY": KERNELS,
        }
        self.of_any_size = _Model(self.graph, self.properties)
        self.by_size: dict[tuple[tuple[int, ...], ...], _Model] = {}
        self.uses: Counter[tuple[tuple[int, ...], ...]] = Counter()

    def model(self, sizes: tuple[tuple[int, ...], ...]) -> _Model:
        """The model for inputs of these shapes."""
        if sizes in self.by_size:
            return self.by_size[sizes]
        self.uses[sizes] += 1
        if self.uses[sizes] < RECURRING:
            return self.of_any_size
        del self.uses[sizes]
        if len(self.by_size) == KEPT:
            del self.by_size[next(iter(self.by_size))]
        graph = self.graph.clone()
        graph.reshape(dict(enumerate(map(list, sizes))))
        self.by_size[sizes] = _Model(graph, self.properties)
        return self.by_size[sizes]


class _Model:
    """A compiled model. Its requests wait to be used again: a new one costs as much as a small image."""

    def __init__(self, graph: Any, properties: dict[str, Any]) -> None:
        self.compiled = _openvino().Core().compile_model(graph, "CPU", properties)
        self.waiting: SimpleQueue[Any] = SimpleQueue()

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        openvino = _openvino()
        try:
            request = self.waiting.get_nowait()
        except Empty:
            request = self.compiled.create_infer_request()
        for index, tensor in enumerate(tensors):
            request.set_input_tensor(index, openvino.Tensor(tensor.numpy(), shared_memory=True))
        # Not infer, which copies all outputs once more.
        request.start_async()
        request.wait()
        found = tuple([torch.from_numpy(output.data.copy()) for output in request.output_tensors])
        self.waiting.put(request)
        return found


@cache
def _openvino() -> Any:
    """The package, imported without that which sends usage data: by a process, which where processes are spawned runs the
    user's script again.
    """
    modules: dict[str, Any] = sys.modules
    with _ONE_BY_ONE:
        before = {name: modules[name] for name in ("openvino_telemetry",) if name in modules}
        modules["openvino_telemetry"] = None  # as if it were not installed
        try:
            return import_module("openvino")
        finally:
            modules.pop("openvino_telemetry", None)
            modules.update(before)


def _convert(module: nn.Module, smallest: int, example: Sequence[Tensor]) -> Any:
    # Not openvino.convert_model, which takes several times as long.
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    side = max(SIDE, 2 * smallest)  # the smallest image has maps of one position, which is a case of its own
    small = tuple([tensor[..., :side, :side] for tensor in example])
    with _ONE_BY_ONE, torch.no_grad(), torch.autocast("cpu", enabled=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, of checks that hold for every size
        traced = torch.jit.trace(_with_padded_pools(module), small, check_trace=False, strict=False)
        decoder = TorchScriptPythonDecoder(traced, example_input=small)  # must live as long as it is read
        frontend = FrontEndManager().load_by_framework("pytorch")
        return frontend.convert(frontend.load(decoder))


def _with_padded_pools(module: nn.Module) -> nn.Module:
    """A copy in which padding does what ``ceil_mode`` does: OpenVINO refuses maps that are smaller than a pool's window."""
    module = copy.deepcopy(module)
    for pool in module.modules():
        if isinstance(pool, nn.MaxPool2d) and pool.ceil_mode:
            sides = [(each, each) if isinstance(each, int) else each for each in (pool.kernel_size, pool.stride, pool.padding)]
            # Otherwise torch leaves out a last window that begins in the padding.
            if all(padding <= kernel - stride for kernel, stride, padding in zip(*sides, strict=True)):
                pool.ceil_mode = False
                pool.register_forward_pre_hook(_pad_below(*sides[1]))  # after the hooks that it has
    return module


def _pad_below(rows: int, columns: int) -> Callable[[nn.Module, tuple[Tensor]], Tensor]:
    return lambda _, given: F.pad(given[0], (0, columns - 1, 0, rows - 1), value=-math.inf)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
