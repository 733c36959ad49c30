"""The exceptions of this package that are not plain ``ValueError`` or ``TypeError``; torch is not needed for them."""


class WeightsNotFoundError(FileNotFoundError):
    """A backbone's pretrained weights are neither on this machine nor to be had from their source."""


class WeightsFileError(ValueError):
    """A file of weights cannot be read, or holds the weights of something else."""


class MissingDependencyError(ImportError):
    """An optional package is needed for what was asked; the message says how to install it."""
