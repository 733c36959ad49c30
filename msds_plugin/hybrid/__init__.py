"""One score of several metrics, and the local terms that go well with a global one."""

from .haarpsi import HaarPSI

__all__ = ["HaarPSI"]
