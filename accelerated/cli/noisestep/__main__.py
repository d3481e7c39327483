"""`python -m noisestep`."""

from noisestep.accelerated.cli import main

main(prog_name="noisestep")
