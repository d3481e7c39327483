"""`python -m noisestep`: installed as `noisestep/__main__.py`, beside the packages `reference` and `accelerated`."""

from noisestep.accelerated.cli import main

main(prog_name="noisestep")
