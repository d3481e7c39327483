"""The command line: `noisestep train | sample | evaluate | report`."""

from .commands import main

__all__ = ["main"]
