"""The evaluation of samples against real images."""
