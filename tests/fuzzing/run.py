"""Fuzz one reader with atheris, which `pip install atheris` brings; in `tests`:

    python -m fuzzing.run READER FOLDER fuzzing/corpus/READER -max_total_time=600

Inputs that reach new code are kept in FOLDER. An exception that no reader promises ends the run, and libFuzzer writes
what caused it to a file `crash-...`.
"""

import sys

import atheris

# all of the libraries would take minutes
_WATCHED = [
    "noisestep.accelerated.data",
    *(f"noisestep.accelerated.training.{name}" for name in ("checkpoint", "config", "tensor_file")),
    "tarfile",
    "zipfile",
    "PIL",
]
with atheris.instrument_imports(include=_WATCHED):
    from .readers import READERS

if __name__ == "__main__":
    name = sys.argv.pop(1)
    # headers may announce as much as the machine has
    atheris.Setup([*sys.argv, "-rss_limit_mb=0"], READERS[name])
    atheris.Fuzz()
