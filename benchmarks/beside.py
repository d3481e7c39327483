"""`python -m benchmarks.beside`: normals by address beside PyTorch's generator and, where it is installed, JAX's keys.

Each fills 2^20 float32 on one thread of the CPU. They take turns in one process, and the least processor time of each
counts. `--curand FOLDER` names the headers of cuRAND, which nvidia-curand has below nvidia/cu13/include, and counts the
machine instructions of its normals for sm_90 with nvcc. The kernels' own are in docs/kernel-cost.md.
"""

import importlib.util
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from noisestep.accelerated import NoiseAddress, noise
from triton import knobs

COUNT = 1 << 20
KERNEL = """
#include <curand_kernel.h>
extern "C" __global__ void normals(float4 *out, unsigned long long seed) {
    unsigned long long thread = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    curandStatePhilox4_32_10_t state;
    curand_init(seed, thread, 0, &state);
#pragma unroll
    for (int call = 0; call < CALLS; call++) out[thread * CALLS + call] = curand_normal4(&state);
}
"""


def providers() -> dict[str, Callable[[], object]]:
    address, generator = NoiseAddress(seed=0, stream=0, step=0), torch.Generator().manual_seed(0)
    found: dict[str, Callable[[], object]] = {
        f"noisestep.accelerated.noise, torch {torch.__version__}": lambda: noise(address, (1, COUNT)),
        f"torch.randn, torch {torch.__version__}": lambda: torch.randn(COUNT, generator=generator),
    }
    if importlib.util.find_spec("jax"):
        import jax

        drawn, key = jax.jit(lambda key: jax.random.normal(key, (COUNT,))), jax.random.key(0)
        found[f"jax.random.normal, jax {jax.__version__}"] = lambda: drawn(key).block_until_ready()
    return found


def nanoseconds(calls: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Processor time a normal, the least of all turns; the first turn does not count."""
    least = dict.fromkeys(calls, float("inf"))
    for turn in range(turns + 1):
        for name, call in calls.items():
            started = time.process_time_ns()
            call()
            spent = time.process_time_ns() - started
            if turn:
                least[name] = min(least[name], spent / COUNT)
    return least


def instructions(headers: Path, calls: int) -> int:
    """Of a thread that makes 4 ``calls`` normals with cuRAND's Philox, as cuobjdump lists them, without padding."""
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "normals.cu"), Path(folder, "normals.cubin")
        source.write_text(KERNEL)
        subprocess.run(
            ["nvcc", "-arch=sm_90", "-cubin", f"-DCALLS={calls}", f"-I{headers}", source, "-o", binary], check=True
        )
        listing = [knobs.nvidia.cuobjdump.path, "-sass", binary]
        listed = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    return len(re.findall(r"^\s+/\*[0-9a-f]{4}\*/\s+(?!NOP|\s)", listed, flags=re.MULTILINE))


@click.command()
@click.option("--turns", type=click.IntRange(1), default=20, show_default=True, help="Of each, one after the other.")
@click.option(
    "--curand", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder with cuRAND's headers."
)
def main(turns: int, curand: Path | None) -> None:
    """Times normals on one thread of the CPU, and counts those of cuRAND."""
    torch.set_num_threads(1)
    for name, spent in nanoseconds(providers(), turns).items():
        print(f"{name:50} {spent:6.1f} ns a normal")
    if curand is not None:
        first, second = (instructions(curand, calls) for calls in (1, 2))
        print(f"cuRAND, sm_90: {first} instructions for the first four normals, {second - first} for the next four")


if __name__ == "__main__":
    main()
