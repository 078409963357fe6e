"""Small pictures of pages with the heat of a match, for the panel.

They go to the browser as ``data:`` URLs, so that they show whatever the browser's file formats, the App's address and
what another person's search has since written to the heatmaps' field.
"""

import base64
import io

import numpy as np
from PIL import Image, ImageColor

from ..engine.image_files import check_dataset_path, open_image_file
from ..engine.image_loading import as_rgb, errors_about, load_upright
from ..integration.query_labels import COLOUR
from ..late_interaction.heatmaps import RANGE

# The largest width and height in pixels. It is sharp on a screen of two pixels a point at half of it.
SIZE = (240, 300)

# How much of a page the hottest place hides.
_OPACITY = 0.75


def thumbnail(path: str, heat: np.ndarray | None = None) -> str:
    """Draws a page small, with its heat over it.

    Args:
        path: the path of the image
        heat (None): a float array ``(rows, columns)``, as in a heatmap

    Returns:
        a ``data:`` URL of a JPEG image

    Raises:
        engine.image_files.ImageError: if the image cannot be read
    """
    with errors_about(path), open_image_file(check_dataset_path(path)) as file:
        # JPEG's decoder can halve the image while it reads it, which takes a fraction of the time.
        file.draft("RGB", SIZE)
        image = as_rgb(load_upright(file))
        image.thumbnail(SIZE)
    if heat is not None:
        opacity = np.clip(heat / RANGE[1], 0, 1) * (255 * _OPACITY)
        mask = Image.fromarray(opacity.astype(np.uint8)).resize(image.size, Image.Resampling.BILINEAR)
        image.paste(ImageColor.getrgb(COLOUR), mask=mask)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
