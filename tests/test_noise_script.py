"""docs/_static/noise.js, the page's own noise, has the bits of the reference: in V8, which Chromium and Node share."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noisestep.reference import noise

HERE = Path(__file__).parent
SCRIPT = (HERE.parent / "docs" / "_static" / "noise.js").read_text(encoding="utf-8")
GOLDEN = json.loads((HERE / "golden" / "noise.json").read_text())
# how the pages' script is asked; numbers of 64 bits come as text, words and float32 go as numbers
ASKED = """
function asked(calls) {
    const address = ([seed, stream, step, sample]) => ({seed: BigInt(seed), stream, step, sample: BigInt(sample)})
    const ask = {
        philox: (counter, key) => Noise.philox(counter, key),
        words: (place, first, count) => Noise.words(address(place), BigInt(first), count),
        pair: (u, v) => Noise.normalPair(u, v).map(Noise.bits),
        pairs: (u, v) => u.flatMap((word, i) => Noise.normalPair(word, v[i])).map(Noise.bits),
        normals: (place, count) => Noise.normals(address(place), count).map(Noise.bits),
    }
    return JSON.stringify(calls.map(([name, ...given]) => ask[name](...given)))
}
"""


def in_mini_racer() -> Callable[[list[Any]], list[Any]]:
    racer = pytest.importorskip("py_mini_racer", reason="runs the script: pip install '.[docs]'").MiniRacer()
    racer.eval(SCRIPT + ASKED)
    return lambda calls: json.loads(racer.call("asked", calls))


def in_node() -> Callable[[list[Any]], list[Any]]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")

    def ask(calls: list[Any]) -> list[Any]:
        program = f"{SCRIPT}{ASKED}\nconsole.log(asked({json.dumps(calls)}))"
        done = subprocess.run([node, "-"], input=program, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return ask


@pytest.fixture(scope="module", params=[in_mini_racer, in_node], ids=["mini-racer", "node"])
def script(request: pytest.FixtureRequest) -> Callable[[list[Any]], list[Any]]:
    return request.param()


def words_of(entry: dict[str, Any], *names: str) -> list[Any]:
    read = [entry[name] for name in names]
    return [[int(word, 16) for word in x] if isinstance(x, list) else int(x, 16) for x in read]


def test_the_script_gives_the_golden_vectors(script: Callable[[list[Any]], list[Any]]) -> None:
    calls, expected = [], []
    for entry in GOLDEN["philox"]:
        calls.append(["philox", *words_of(entry, "counter", "key")])
        expected += words_of(entry, "block")
    for entry in GOLDEN["pair"]:
        calls.append(["pair", *words_of(entry, "u", "v")])
        expected += words_of(entry, "normals")
    for entry in GOLDEN["normal"]:
        place = [entry[name] for name in ("seed", "stream", "step", "sample")]
        calls.append(["words", place, entry["first"], len(entry["words"])])
        expected += words_of(entry, "words")
        if entry["first"] == "0x0":
            calls.append(["normals", place, len(entry["normals"])])
            expected += words_of(entry, "normals")
    assert len(calls) > 30
    assert script(calls) == expected


def test_the_script_gives_the_references_normals(script: Callable[[list[Any]], list[Any]]) -> None:
    # words of every size, so that every binade of the radius is among them; every second one near the end of its range
    generator = np.random.default_rng(0)
    u, v = generator.integers(0, 1 << 32, (2, 20_000), dtype=np.uint32)
    u >>= generator.integers(0, 32, u.shape, dtype=np.uint32)
    u[::2] = ~u[::2]
    found = np.array(script([["pairs", u.tolist(), v.tolist()]])[0], np.uint32)
    expected = np.stack(noise.normal_pair(u, v), axis=1).view(np.uint32).ravel()
    np.testing.assert_array_equal(found, expected)
    # an odd number of elements drops the last half of a pair
    (found,) = script([["normals", ["7", 3, 5, str(2**63)], 7]])
    np.testing.assert_array_equal(found, noise.normal(7, 3, 5, 2**63, (7,))[0].view(np.uint32))
