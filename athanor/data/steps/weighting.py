"""Sampling weight as a function of quality. The mean over a domain is made 1 by the loader, not here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from athanor.recipe.steps.quality import WeightOptions


def weights(quality: npt.NDArray[np.floating], options: WeightOptions) -> npt.NDArray[np.float32]:
    """Weight of each quality (nan: 1, nothing is known of it), as :class:`WeightOptions` says."""
    q = np.asarray(quality, dtype=np.float64)
    if options.kind == "power":
        value = (np.maximum(q, 0) / options.reference) ** options.exponent
    elif options.kind == "linear":
        value = 1 + options.slope * (q - options.reference)
    elif options.kind == "steps":
        value = np.full(q.shape, options.floor)
        for threshold, weight in sorted(options.steps.items()):
            value = np.where(q >= threshold, weight, value)
    else:
        value = np.ones(q.shape)
    value = np.clip(value, options.floor, options.ceiling)
    return np.where(np.isnan(q), 1.0, value).astype(np.float32)


def combine(columns: Mapping[str, npt.NDArray[np.float32]], axes: Mapping[str, float]) -> npt.NDArray[np.float32]:
    """Weighted mean of the axes [rows]; axes without a score (nan) in a row are left out of its mean."""
    names = list(axes)
    values = np.stack([np.asarray(columns[name], dtype=np.float64) for name in names])
    share = np.array([axes[name] for name in names])[:, None] * ~np.isnan(values)
    total = share.sum(0)
    mean = (np.nan_to_num(values) * share).sum(0) / np.where(total > 0, total, 1)
    return np.where(total > 0, mean, np.nan).astype(np.float32)
