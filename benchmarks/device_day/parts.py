"""The parts of the day in their order, what is right before what is fast, each with the most seconds it may take."""

from . import device, host, kernel_tests, machine, program_sizes, right, tools, train
from .day import Part

PARTS = {
    "machine": Part(machine.rows, 15),
    "tests": Part(kernel_tests.rows, 120),
    "right": Part(right.rows, 90),
    "host": Part(host.rows, 30),
    "device": Part(device.rows, 60),
    "train": Part(train.rows, 40),
    "variants": Part(program_sizes.rows, 45),
    "tools": Part(tools.rows, 80),
}
