"""How well scores agree with opinions, how sure that is, and whether two metrics differ.

Opinion scores come in groups: the distorted images of one reference resemble each other. Everything here that speaks of
uncertainty therefore resamples references, never single images. With fewer than about ten references such intervals are
too narrow; with one there is none (NaN).
"""

from msds_plugin.adapters.benchmark.statistics.agreements import (
    Agreement,
    agreement,
    agreement_by_group,
    by_reference,
    within_references,
)
from msds_plugin.adapters.benchmark.statistics.bootstrap import RESAMPLES, SEED, correlation_interval, mean_interval, resample
from msds_plugin.adapters.benchmark.statistics.choices import choice_agreement, choice_significance
from msds_plugin.adapters.benchmark.statistics.correlation import krcc, outlier_ratio, pearson, rmse, srcc
from msds_plugin.adapters.benchmark.statistics.differences import LEVEL, holm, mean_differences, significance
from msds_plugin.adapters.benchmark.statistics.mapping import Mapping, fit_mapping, plcc

__all__ = [
    "LEVEL",
    "RESAMPLES",
    "SEED",
    "Agreement",
    "Mapping",
    "agreement",
    "agreement_by_group",
    "by_reference",
    "choice_agreement",
    "choice_significance",
    "correlation_interval",
    "fit_mapping",
    "holm",
    "krcc",
    "mean_differences",
    "mean_interval",
    "outlier_ratio",
    "pearson",
    "plcc",
    "resample",
    "rmse",
    "significance",
    "srcc",
    "within_references",
]
