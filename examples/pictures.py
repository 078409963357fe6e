"""Pictures of what the demo found: a contact sheet of its searches, where pages matched, and a map of its dataset."""

import textwrap

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot  # noqa: E402, the backend comes first
from PIL import Image  # noqa: E402


def draw_contact_sheet(results, right, path):
    """Draws a row of pages for each query.

    Args:
        results: a dict of FiftyOne views by query, the best page first
        right: the set of ``(query, sample ID)`` whose pages are framed as right
        path: the PNG to write
    """
    columns = 1 + max(len(view) for view in results.values())
    figure, axes = pyplot.subplots(len(results), columns, figsize=(2 * columns, 2.7 * len(results)), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()

    for row, (query, view) in zip(axes, results.items(), strict=True):
        row[0].text(0.5, 0.5, textwrap.fill(query, 16), ha="center", va="center", fontsize=12, wrap=True)
        for rank, (axis, sample) in enumerate(zip(row[1:], view, strict=False), start=1):
            with Image.open(sample.filepath) as image:
                axis.imshow(image.convert("RGB"))
            axis.set_title(f"{rank}", fontsize=10, color="grey")
            axis.set_axis_on()
            axis.set(xticks=(), yticks=())
            axis.spines[:].set(color="tab:green" if (query, sample.id) in right else "lightgrey", linewidth=3)

    if right:
        figure.supxlabel("framed in green: all that was asked for is on the page", fontsize=10)
    _save(figure, path)


def draw_heatmaps(view, field, path):
    """Draws pages with their heatmaps over them, in one row.

    Args:
        view: a FiftyOne view
        field: its field of heatmaps
        path: the PNG to write
    """
    figure, axes = pyplot.subplots(1, len(view), figsize=(3 * len(view), 4), squeeze=False)
    for axis, sample in zip(axes.flat, view, strict=True):
        axis.set_axis_off()
        heatmap = sample[field]
        with Image.open(sample.filepath) as image:
            axis.imshow(image.convert("L"), cmap="gray")
            low, high = heatmap.range
            # The page shows through where nothing matched.
            opacity = ((heatmap.map - low) / (high - low)).clip(0, 1) ** 0.5
            extent = (0, image.width, image.height, 0)
            axis.imshow(heatmap.map, cmap="autumn_r", vmin=low, vmax=high, alpha=opacity, extent=extent)
    _save(figure, path)


def draw_map(points, labels, path):
    """Draws a dataset's embeddings in two dimensions.

    Args:
        points: an array ``(N, 2)``
        labels: a list of N strings to colour them by
        path: the PNG to write
    """
    figure, axis = pyplot.subplots(figsize=(9, 6))
    names = sorted({label or "(none)" for label in labels})
    for name, colour in zip(names, pyplot.cm.tab20(range(20)).tolist() * len(names), strict=False):
        rows = [i for i, label in enumerate(labels) if (label or "(none)") == name]
        axis.scatter(*points[rows].T, color=colour, label=name, s=24)

    axis.set(xticks=(), yticks=())
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    _save(figure, path)


def _save(figure, path):
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
