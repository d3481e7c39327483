"""`python -m noisestep.accelerated.cli`, for torchrun."""

from . import main

main(prog_name="noisestep")
