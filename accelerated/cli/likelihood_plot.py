"""The picture of the likelihood: bits per dimension by timestep."""

import numpy as np
from PIL import Image

from ..evaluation.likelihood_results import Likelihood
from .plots import as_image, finish, new_figure


def likelihood_plot(likelihood: Likelihood) -> Image.Image:
    """The terms of the bound over t, and their sum up to t beside the bits by the ODE.

    Parameters
    ----------
    likelihood : Likelihood

    Returns
    -------
    Image
        A Pillow image, 1320 × 1200.
    """
    figure = new_figure(5)
    top, bottom = figure.subplots(2, 1, sharex=True)
    highest = np.array(likelihood.grid)
    sizes = np.diff(highest, prepend=0)
    # a stratum is as wide as its steps; step t reaches from t - 1/2 to t + 1/2
    edges = np.concatenate([[0.5], highest + 0.5])
    colors = ("#1f4e79", "#b5651d")
    for (variance, bound), color in zip(likelihood.bound.items(), colors, strict=True):
        by_step = np.array(bound.by_step)
        top.stairs(by_step, edges, color=color, linewidth=1.5, baseline=None, label=f"σ² = {variance}")
        bottom.plot(highest, np.cumsum(by_step * sizes), color=color, linewidth=1.5, label=f"bound, σ² = {variance}")
    bottom.axhline(likelihood.ode.total, color="#62676e", linewidth=1.2, linestyle="--", label="ODE")
    top.set_xscale("log")
    top.set_yscale("log")
    top.set_ylabel("bits per dimension of term t")
    bottom.set_ylabel("terms 1 to t together")
    bottom.set_xlabel("timestep t")
    bottom.xaxis.set_major_formatter("{x:g}")
    for axes in (top, bottom):
        axes.legend(frameon=False, fontsize=9)
        finish(axes)
    return as_image(figure)
