"""The readers that are fuzzed, on the inputs that fuzzing began with and on those that it found."""

from pathlib import Path

import pytest
from fuzzing.readers import READERS

CORPUS = Path(__file__).parent / "fuzzing" / "corpus"
INPUTS = sorted(path for folder in CORPUS.iterdir() for path in folder.iterdir())


def test_every_reader_has_inputs():
    assert {path.parent.name for path in INPUTS} == set(READERS)


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_input_is_read_or_refused_as_promised_also_cut_short_or_with_a_wrong_bit(path):
    read, whole = READERS[path.parent.name], path.read_bytes()
    read(whole)
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        read(whole[:place])
        for bit in (0, 4, 7):
            read(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
