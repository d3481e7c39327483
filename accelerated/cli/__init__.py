"""The command line: `noisestep learn | train | sample | evaluate | report | verify`."""

from .commands import main

__all__ = ["main"]
