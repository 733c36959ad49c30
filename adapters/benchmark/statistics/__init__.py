"""How well scores agree with opinions, how sure that is, and whether two metrics differ.

Opinion scores come in groups: the distorted images of one reference resemble each other. Everything here that speaks of
uncertainty therefore resamples references, never single images. With fewer than about ten references such intervals are
too narrow; with one there is none (NaN).
"""

from .agreements import Agreement, agreement, agreement_by_group
from .bootstrap import RESAMPLES, SEED, UNKNOWN, Interval, correlation_interval, resample
from .choices import agreeing, choice_agreement, choice_significance
from .correlation import OUTLIER_DEVIATIONS, Array, krcc, outlier_ratio, pearson, rmse, srcc
from .differences import holm, significance
from .mapping import RISE_BOUNDS, Mapping, fit_mapping, plcc, rise
from .power import Needed, needed, needed_for_all
from .within import Within, by_reference, mean_interval, within_references

__all__ = [
    "OUTLIER_DEVIATIONS",
    "RESAMPLES",
    "RISE_BOUNDS",
    "SEED",
    "UNKNOWN",
    "Agreement",
    "Array",
    "Interval",
    "Mapping",
    "Needed",
    "Within",
    "agreeing",
    "agreement",
    "agreement_by_group",
    "by_reference",
    "choice_agreement",
    "choice_significance",
    "correlation_interval",
    "fit_mapping",
    "holm",
    "krcc",
    "mean_interval",
    "needed",
    "needed_for_all",
    "outlier_ratio",
    "pearson",
    "plcc",
    "resample",
    "rise",
    "rmse",
    "significance",
    "srcc",
    "within_references",
]
