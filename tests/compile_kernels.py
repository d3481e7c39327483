"""Compile every kernel for a GPU that need not be there: `python tests/compile_kernels.py sm_90`.

What is compiled are the launches of the calls that tests/descriptions has of every op, each specialised by Triton as in
a real launch. A process of its own, since kernels that were imported for the interpreter cannot be compiled. Prints a
line for each kernel; the last says how many there were.
"""

import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import triton
from descriptions import DESCRIPTIONS, Description
from descriptions.description import split
from emulator.driver import TARGETS
from noisestep.accelerated.backends import Launch
from triton.backends.compiler import GPUTarget


class Driver:
    """A Triton driver that names a target and runs nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def get_current_target(self) -> GPUTarget:
        return TARGETS[self.name].triton

    def get_current_device(self) -> str:
        return self.name

    def get_current_stream(self, device: str | None = None) -> int:
        return 0


def launches() -> Iterator[tuple[Description, Launch]]:
    """The launches of every op, with each value of each of its options in one of them."""
    for description in DESCRIPTIONS.values():
        for row in description.few_rows:
            for launch in description.launches(*split(row)):
                yield description, launch


def build(launch: Launch) -> Any:
    """The compiled kernel of a launch; the same object for launches that share it."""
    return launch.kernel.warmup(grid=launch.grid, **launch.arguments, **launch.options)


def main(target: str) -> None:
    """Compile them all; the first that fails ends the process with its error."""
    if target not in TARGETS:
        raise SystemExit(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    seen: set[str] = set()
    with mock.patch.object(triton.runtime.driver, "_active", Driver(target)):
        for description, launch in launches():
            compiled = build(launch)
            if compiled.hash in seen:
                continue
            seen.add(compiled.hash)
            shared = compiled.metadata.shared
            if shared and description.elementwise:
                raise RuntimeError(
                    f"a kernel of {description.name} passes {shared} bytes through shared memory: {launch.arguments}"
                )
            print(description.name, launch.kernel.fn.__name__, shared, "bytes of shared memory", flush=True)
    print(len(seen), "kernels")


if __name__ == "__main__":
    main(*sys.argv[1:])
