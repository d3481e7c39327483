"""The memory of a process that streams images: `python benchmarks/large_data.py --count 100000`.

It makes that many small PNG files in tar files of 1,000, each with its class beside it, and sends one epoch of them to
the device, as training does. What it prints is the memory of the process that trains and of those that decode for it.
"""

import argparse
import io
import tarfile
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from noisestep.accelerated.data import ImageStream
from noisestep.accelerated.training.batches import Batches
from noisestep.accelerated.training.config import train_config
from PIL import Image

SHARD, CLASSES, BATCH = 1000, 10, 50


def make_shards(folder: Path, count: int, side: int) -> str:
    """`count` images of noise in tar files, and the pattern that names them."""
    rng = np.random.default_rng(0)
    for start in range(0, count, SHARD):
        with tarfile.open(folder / f"{start // SHARD:06d}.tar", "w") as tar:
            for number in range(start, min(start + SHARD, count)):
                image = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(image, "PNG")
                for suffix, content in (("png", image.getvalue()), ("cls", str(number % CLASSES).encode())):
                    member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return f"{folder}/{{000000..{(count - 1) // SHARD:06d}}}.tar"


def resident() -> float:
    """Megabytes of this process and of those that it started, each page that they share counted once."""
    total = 0
    children = Path("/proc/self/task").glob("*/children")
    for process in ["self", *" ".join(path.read_text() for path in children).split()]:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1e3


def main() -> None:
    """Make the images, stream one epoch of them, and print the memory along the way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pattern = make_shards(Path(folder), arguments.count, arguments.side)
        start = time.perf_counter()
        images = ImageStream.open(pattern, size=None, channels=None, fit="crop")
        print(f"{len(images)} images of {images.shape}; the index took {time.perf_counter() - start:.1f} s")
        steps = len(images) // BATCH
        config = train_config(
            {"steps": steps, "batch_size": BATCH, "warmup": 0, "data": {"workers": arguments.workers}}
        )
        start = time.perf_counter()
        with closing(Batches(config, images, CLASSES, torch.device("cpu"))) as batches:
            for step in range(steps):
                batches(step)
                if (step + 1) % max(1, steps // 10) == 0:
                    print(f"after {(step + 1) * BATCH} images {resident():.1f} MB")
        rate = steps * BATCH / (time.perf_counter() - start)
        print(
            f"{rate:.0f} images/s, {arguments.workers} workers; as bytes in memory the set is "
            f"{len(images) * np.prod(images.shape) / 1e6:.0f} MB"
        )


if __name__ == "__main__":
    main()
