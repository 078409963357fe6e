"""Figures of embedding spaces: PNG by matplotlib, and interactive HTML by plotly.

plotly writes PNG only with a browser, and matplotlib no interactive HTML. All models in a figure share its axes and
bins, so that they can be compared.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

if TYPE_CHECKING:
    from .space import Space

_BINS = 60
_COLOURS = {
    "image and its text": "#e4572e",
    "text and its paraphrase": "#2e86ab",
    "image and another's text": "#8d99ae",
}
_MODALITIES = {"images": "#e4572e", "texts": "#2e86ab"}


def save(spaces: "Sequence[Space]", ids: Sequence[str], folder: Path) -> dict[str, Path]:
    """Draws the figures of spaces.

    Args:
        spaces: a list of :class:`analysis.space.Space`, one per model
        ids: the ids of the measured samples, which the points of the HTML show
        folder: the folder to write to

    Returns:
        a dict of the paths of the PNG files by the figures' names
    """
    matched = [{"image and its text": space.matched} for space in spaces]
    similarities = [
        kinds if space.paraphrased is None else kinds | {"text and its paraphrase": space.paraphrased}
        for kinds, space in zip(matched, spaces, strict=True)
    ]
    separation = [
        kinds | {"image and another's text": space.negatives} for kinds, space in zip(matched, spaces, strict=True)
    ]
    histograms = {
        "similarities": (similarities, [f"{space.name}: alignment {space.alignment:.2f}" for space in spaces]),
        "separation": (separation, [f"{space.name}: AUC {space.auc:.3f}" for space in spaces]),
    }

    paths = {}
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        for name, (kinds, titles) in histograms.items():
            paths[name] = folder / f"{name}.png"
            _draw_histograms(kinds, titles).savefig(paths[name], dpi=150)
            _plot_histograms(kinds, titles).write_html(folder / f"{name}.html", include_plotlyjs="directory")
        paths["projection"] = folder / "projection.png"
        _draw_projection(spaces).savefig(paths["projection"], dpi=150)
        _plot_projection(spaces, ids).write_html(folder / "projection.html", include_plotlyjs="directory")
    return paths


def _bins(kinds):
    """Returns the edges of equal bins that span the cosines of all models."""
    values = np.concatenate([values for of_model in kinds for values in of_model.values()])
    return np.linspace(values.min(), values.max(), _BINS + 1)


def _draw_histograms(kinds, titles):
    bins = _bins(kinds)
    figure = Figure(figsize=(6.4, 1 + 1.7 * len(kinds)), layout="constrained")
    axes = figure.subplots(len(kinds), sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, of_model, title in zip(axes, kinds, titles, strict=True):
        for name, values in of_model.items():
            weights = np.full(len(values), 100 / len(values))
            axis.hist(values, bins, weights=weights, color=_COLOURS[name], alpha=0.55, label=name)
            axis.axvline(values.mean(), color=_COLOURS[name], linewidth=1.2)
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_ylabel("pairs, %")
    axes[-1].set_xlabel("cosine; lines are means")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def _plot_histograms(kinds, titles):
    bins = _bins(kinds)
    figure = make_subplots(len(kinds), 1, shared_xaxes=True, shared_yaxes="all", subplot_titles=titles)
    for row, of_model in enumerate(kinds, start=1):
        for name, values in of_model.items():
            bars = go.Histogram(
                x=values,
                name=name,
                xbins={"start": bins[0], "end": bins[-1], "size": bins[1] - bins[0]},
                histnorm="percent",
                opacity=0.6,
                marker_color=_COLOURS[name],
                legendgroup=name,
                showlegend=row == 1,
            )
            figure.add_trace(bars, row, 1)
    figure.update_layout(barmode="overlay", height=160 + 220 * len(kinds))
    figure.update_yaxes(title_text="pairs, %")
    figure.update_xaxes(title_text="cosine", row=len(kinds))
    return figure


def _draw_projection(spaces):
    figure = Figure(figsize=(0.4 + 3.6 * len(spaces), 3.9), layout="constrained")
    axes = figure.subplots(1, len(spaces), squeeze=False)[0]
    for axis, space in zip(axes, spaces, strict=True):
        axis.plot(*space.points.transpose(2, 0, 1), color="#c8ccd4", linewidth=0.3, zorder=0)
        for (name, colour), points in zip(_MODALITIES.items(), space.points, strict=True):
            axis.scatter(*points.T, s=5, color=colour, alpha=0.7, linewidths=0, label=name)
        axis.set_title(f"{space.name}: modality gap {space.modality_gap:.2f}", fontsize=9, loc="left")
        axis.set_aspect("equal", adjustable="datalim")
        axis.set_xticks([])
        axis.set_yticks([])
    legend = figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    for handle in legend.legend_handles:
        handle.set_sizes([24])
    return figure


def _plot_projection(spaces, ids):
    figure = make_subplots(1, len(spaces), subplot_titles=[space.name for space in spaces])
    for column, space in enumerate(spaces, start=1):
        for (name, colour), points in zip(_MODALITIES.items(), space.points, strict=True):
            dots = go.Scatter(
                x=points[:, 0],
                y=points[:, 1],
                mode="markers",
                name=name,
                text=ids,
                marker={"color": colour, "size": 5},
                legendgroup=name,
                showlegend=column == 1,
            )
            figure.add_trace(dots, 1, column)
    figure.update_layout(height=520)
    return figure
