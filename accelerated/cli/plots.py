"""What the plots of a report have in common: a size at which their text can be read, and how they become images."""

import io
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(height: float) -> "Figure":
    """An empty figure, 1320 pixels wide and `height` inches of 240 pixels high.

    It is 5.5 inches wide so that a text of 10 points is still 9 pixels high where the page is 360 wide.
    """
    # half a second to import, which drawing samples does not need
    from matplotlib.figure import Figure

    return Figure(figsize=(5.5, height), dpi=240, layout="constrained")


def finish(axes: "Axes") -> None:
    """Give axes the looks of the report: a faint grid, no frame."""
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def as_image(figure: "Figure") -> Image.Image:
    """The figure as a Pillow image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")
