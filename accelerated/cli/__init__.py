"""The command line: `noisestep learn | train | sample | evaluate | report`."""

from .commands import main

__all__ = ["main"]
