"""The picture of a comparison of samplers: quality against calls of the network."""

from PIL import Image

from ..evaluation.comparison import Comparison
from .plots import as_image, finish, new_figure

MARKERS = "os^vD<>Pdphx*"


def comparison_plot(comparison: Comparison, grid: str) -> Image.Image:
    """The Fréchet distance over the calls of the network, a line with standard errors for each sampler.

    Parameters
    ----------
    comparison : Comparison
    grid : str
        The grid whose cells are drawn.

    Returns
    -------
    Image
        A Pillow image, 1320 × 1008.
    """
    figure = new_figure(4.2)
    axes = figure.subplots()
    for number, (sampler, cells) in enumerate(comparison.by_sampler(grid).items()):
        calls = [cell.calls for cell in cells]
        means, errors = zip(*(comparison.ratio(cell) for cell in cells), strict=True)
        marker = MARKERS[number % len(MARKERS)]
        axes.errorbar(calls, means, errors, label=sampler, marker=marker, markersize=5, linewidth=1.2, capsize=2)
    axes.axhline(1, color="0.5", linestyle=":", label="real images")
    axes.set_xscale("log")
    ticks = sorted({cell.calls for cell in comparison.cells})
    axes.set_xticks(ticks, [str(calls) for calls in ticks])
    axes.minorticks_off()
    axes.set_xlabel("calls of the network")
    axes.set_ylabel("Fréchet distance, real images = 1")
    axes.legend(fontsize=8, frameon=False)
    finish(axes)
    return as_image(figure)
