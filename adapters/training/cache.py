"""What frozen networks make of image pairs, computed once and kept in a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ...spips import SPIPS, Inputs
from ...weights import file_identity
from ..images.read import Reading, decode_pair, to_tensor

_DEFAULT = Reading()

__all__ = ["inputs_of"]


def inputs_of(
    metric: SPIPS,
    pairs: Sequence[tuple[Path, Path]],
    folder: Path,
    step: Callable[[int, int], None] = lambda done, of: None,
    reading: Reading = _DEFAULT,
) -> Inputs:
    """The learned part's inputs of all pairs; what is in ``folder`` already is not computed again.

    Raises:
        ValueError: as the metric does; names the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    maps, small = [], []
    for done, kept in enumerate(_each(metric, pairs, folder, reading), 1):
        maps.append(kept["maps"])
        small.append(kept["thumbnails"])
        step(done, len(pairs))
    return Inputs(torch.stack(maps), torch.stack(small))


def _each(
    metric: SPIPS, pairs: Sequence[tuple[Path, Path]], folder: Path, reading: Reading
) -> Iterator[dict[str, torch.Tensor]]:
    device = next(metric.backbone.parameters()).device
    for reference, distorted in pairs:
        stated = "" if reading == _DEFAULT else f" {reading.peak} {reading.background}"
        key = f"{metric.backbone.description} {file_identity(reference)} {file_identity(distorted)}{stated}"
        file = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
        try:
            yield load_file(file)
            continue
        except (FileNotFoundError, SafetensorError):  # a file that a kill cut short is written again
            pass
        x, y = (to_tensor(each).to(device) for each in decode_pair(distorted, reference, reading))
        try:
            with torch.inference_mode():
                inputs = metric.inputs(x, y)
        except ValueError as error:
            raise ValueError(f"{distorted} beside {reference}: {error}") from error
        kept = {"maps": inputs.maps[0].cpu().contiguous(), "thumbnails": inputs.thumbnails[0].cpu().half().contiguous()}
        part = file.with_suffix(f".{os.getpid()}")
        save_file(kept, part)
        os.replace(part, file)
        yield kept
