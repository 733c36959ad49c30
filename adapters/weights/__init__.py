"""The files of the backbones' pretrained weights: what is there, and putting one in place."""

from .files import WeightsRow, inventory, put_in_place

__all__ = ["WeightsRow", "inventory", "put_in_place"]
