"""Learned weights of SPIPS on disk: a small safetensors file that says where they come from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..errors import WeightsFileError

__all__ = ["FORMAT", "load_weights", "save_weights"]

FORMAT = "msds_plugin.SPIPS/1"
_NEEDED = ("backbone", "low", "high")


def save_weights(path: str | os.PathLike[str], state: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Write the learned part's tensors and what is to be known of them; :func:`load_weights` reads it."""
    from safetensors.torch import save_file

    # One entry, since safetensors writes several in an order of chance.
    content = json.dumps({"format": FORMAT, **facts}, sort_keys=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in state.items()}, path, {"msds_plugin": content})


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Facts and tensors of a file. Nothing in it is executed.

    Raises:
        FileNotFoundError: no such file.
        WeightsFileError: damaged, or another kind of file.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights of SPIPS at {path}")
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("msds_plugin", "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError) as error:
        raise WeightsFileError(f"{path} is damaged or not a file of weights: {error}") from error
    if not isinstance(facts, dict) or facts.pop("format", None) != FORMAT or any(name not in facts for name in _NEEDED):
        raise WeightsFileError(f"{path} is a safetensors file but does not hold weights of SPIPS")
    return facts, state
