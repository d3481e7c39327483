"""The quality of the noise, as docs/noise.md quotes it: `python -m benchmarks.noise_quality --help`.

It stands with the benchmarks because it takes minutes to hours and gives figures; that the bits stay as they are is
for the tests.
"""

import argparse

from .feed import ORDERS


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noise_quality", description=__doc__)
    parsers = parser.add_subparsers(dest="command", required=True)
    parsers.add_parser("moments", help="the moments of the transform over every input that it has; a minute")
    normals = parsers.add_parser("normals", help="many normals beside N(0, 1)")
    normals.add_argument("--count", type=float, default=1e11, help="how many (1e11)")
    normals.add_argument("--threads", type=int, default=2, help="(2)")
    words = parsers.add_parser("words", help="random words on standard output, without end")
    words.add_argument("order", choices=ORDERS)
    battery = parsers.add_parser("dieharder", help="the tests of dieharder, which must be installed, over all orders")
    battery.add_argument("tests", nargs="*", type=int, help="their numbers; by default all that it calls good, but 203")
    arguments = parser.parse_args()
    # what a command needs is imported by it: PyTorch takes seconds, of which a pipe of words needs none
    match arguments.command:
        case "moments":
            from . import moments

            moments.report()
        case "normals":
            from . import normals

            normals.report(int(arguments.count), arguments.threads)
        case "words":
            from . import feed

            feed.write_words(arguments.order)
        case "dieharder":
            from . import dieharder

            dieharder.report(arguments.tests or dieharder.TESTS)


if __name__ == "__main__":
    main()
