"""From noise to images."""

from .loop import Samples, sample

__all__ = ["Samples", "sample"]
