"""`python -m noisestep.accelerated.cli`, for torchrun."""

from .commands import main

main(prog_name="noisestep")
