"""The kernels that `torch.compile` would run on an H100 for the same functions, obtained with no GPU.

A function is traced on fake CPU tensors; the graph's tensors are moved to a fake CUDA device; Inductor writes its
Triton code for it, and each kernel is compiled and counted as ours are. That patches PyTorch's internals, so it
happens in a process of its own: `python -m benchmarks.kernel_cost.inductor 90` prints JSON.
"""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import plain
from .cache import Cache, key_of_generated
from .cases import DTYPES, SHAPES
from .cost import Code, KernelCost, read
from .specialise import Target
from .traffic import Traffic

# one shape is enough: Inductor's kernels walk the batch as one long array
SHAPE = "latents"
_ROOT = Path(__file__).parents[2]

_KERNEL = re.compile(r"async_compile\.triton\('(\w+)', '''(.*?)'''", re.DOTALL)
_RUN = re.compile(r"^\s*(\w+)\.run\((.*), stream=", re.MULTILINE)
_BUFFER = re.compile(r"(\w+) = (?:empty_strided_cuda|rand_strided)\(\((.*?)\), \(.*?\),.*?torch\.(\w+)\)")
_RENAMED = re.compile(r"^\s*(\w+) = (\w+); del \2", re.MULTILINE)
_CUDA = torch.device("cuda", 0)
_H100 = SimpleNamespace(
    name="NVIDIA H100",
    major=9,
    minor=0,
    total_memory=80 << 30,
    multi_processor_count=132,
    warp_size=32,
    max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=65536,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    L2_cache_size=50 << 20,
    gcnArchName="",
)


class _Driver(Target):
    """Enough of a Triton driver for Inductor to write code for: it names a device and runs nothing."""

    utils = SimpleNamespace(
        get_device_properties=lambda index: dict(
            max_shared_mem=232448, multiprocessor_count=132, warpSize=32, max_num_regs=65536
        )
    )
    launcher_cls = None

    def get_active_torch_device(self) -> torch.device:
        return _CUDA

    def is_active(self) -> bool:
        return True


def _pretend_to_be_an_h100() -> None:
    """For the rest of this process, PyTorch and Triton see an H100 that nothing can be run on."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import config
    from torch._inductor.runtime import triton_helpers

    answers = {
        "get_device_properties": _H100,
        "get_device_capability": (9, 0),
        "is_available": True,
        "current_device": 0,
        "device_count": 1,
        "synchronize": None,
        "_lazy_init": None,
    }
    for owner, extra in ((torch.cuda, {}), (CudaInterface, {"get_compute_capability": 90}), (CudaInterface.Worker, {})):
        for name, answer in {**answers, **extra}.items():
            if hasattr(owner, name):
                setattr(owner, name, staticmethod(lambda *a, _answer=answer, **k: _answer))
    # nor does a generated module, when it is imported, look for a device
    triton_helpers.set_driver_to_gpu = lambda: None
    triton.runtime.driver.set_active(_Driver(90))
    config.fallback_random = False
    config.compile_threads = 1


def generated(function: Any, *arguments: Tensor) -> str:
    """The source that Inductor writes for function(*arguments) on the pretended GPU."""
    from torch._inductor.debug import DebugContext
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.fx_passes.replace_random import replace_random_passes
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch._subclasses import FakeTensor, FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.utils import _pytree

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        on_cpu = [torch.empty_strided(a.shape, a.stride(), dtype=a.dtype) for a in arguments]
    graph = make_fx(function, decomposition_table=select_decomp_table(), tracing_mode="fake")(*on_cpu)
    with V.set_fake_mode(fake):
        replace_random_passes(graph)

    def moved(value: Any) -> Any:
        if isinstance(value, torch.device):
            return _CUDA
        if not isinstance(value, Tensor):
            return value
        return FakeTensor(
            fake, torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta"), _CUDA
        )

    for node in graph.graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = _pytree.tree_map(moved, node.meta["val"])
        node.args = _pytree.tree_map(lambda x: moved(x) if isinstance(x, torch.device) else x, node.args)
        node.kwargs = {k: moved(v) if isinstance(v, torch.device) else v for k, v in node.kwargs.items()}
    inputs = [moved(tensor) for tensor in on_cpu]
    lowering = GraphLowering(graph, example_inputs=inputs, shape_env=fake.shape_env)
    with V.set_graph_handler(lowering), V.set_fake_mode(fake), V.set_debug_handler(DebugContext()):
        lowering.run(*inputs)
        code, _ = lowering.codegen()
    return str(getattr(code, "value", code))


@dataclass(frozen=True)
class _Kernel:
    """One of Inductor's kernels, with the block and the warps that its own heuristics put first."""

    name: str
    function: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    attributes: dict[Any, Any]
    warps: int
    blocks: dict[str, int]

    def threads(self, run: list[str]) -> int:
        """How many threads a launch with these arguments, as the generated code spells them, starts."""
        names = [name for name in self.signature if not name.endswith("BLOCK")]
        sizes = dict(zip(names, run, strict=True))
        axes = (axis for axis in "xyz" if f"{axis}numel" in sizes)
        programs = prod(-(-int(sizes[f"{axis}numel"]) // self.blocks.get(f"{axis.upper()}BLOCK", 1)) for axis in axes)
        return programs * 32 * self.warps


def _kernels(code: str, folder: Path) -> Iterator[_Kernel]:
    for number, (name, source) in enumerate(_KERNEL.findall(code)):
        # a file for each, for Triton reads it when it compiles
        path = folder / f"{name}_{number}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        tuner = getattr(module, name)
        config, meta = tuner.configs[0], tuner.triton_meta
        signature = meta["signature"]
        constants = {**meta.get("constants", {}), **config.kwargs}
        constants = {key: constants[key] for key, kind in signature.items() if kind == "constexpr"}
        attributes = meta["configs"][0]
        yield _Kernel(name, tuner.fn, signature, constants, attributes, config.num_warps, config.kwargs)


def _sizes(code: str) -> dict[str, tuple[int, int]]:
    """The elements and bytes of each buffer and input of generated code."""
    sizes = {}
    for name, shape, dtype in _BUFFER.findall(code):
        elements = prod(int(n) for n in shape.replace(" ", "").split(",") if n)
        sizes[name] = elements, elements * getattr(torch, dtype).itemsize
    for name, old in _RENAMED.findall(code):
        sizes[name] = sizes[old]
    return sizes


def _costs_of(case: str, dtype: str, code: str, folder: Path, capabilities: tuple[int, ...]) -> Iterator[KernelCost]:
    batch = prod(SHAPES[SHAPE])
    sizes = _sizes(code)
    runs = {name: arguments.split(", ") for name, arguments in _RUN.findall(code)}
    for kernel in _kernels(code, folder):
        touched = [sizes[argument] for argument in runs[kernel.name] if argument in sizes]
        if not any(elements >= batch for elements, _ in touched):
            continue
        source = ASTSource(kernel.function, kernel.signature, kernel.constants, kernel.attributes)
        for capability in capabilities:
            options = {"num_warps": kernel.warps, "num_stages": 1}
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            yield KernelCost(
                case=case,
                provider="torch.compile",
                kernel=kernel.name,
                shape=SHAPE,
                dtype=dtype,
                layout="contiguous",
                capability=capability,
                code=read(compiled),
                elements_a_thread=batch / kernel.threads(runs[kernel.name]),
                bytes_an_element=sum(size for elements, size in touched if elements >= batch) / batch,
            )


def count(capabilities: tuple[int, ...]) -> dict[str, Any]:
    """The costs of Inductor's kernels, and what its graphs launch and move, in this process (which it changes)."""
    _pretend_to_be_an_h100()
    kernels: list[dict[str, Any]] = []
    traffic: list[dict[str, Any]] = []
    for dtype in DTYPES:
        for case, (function, make) in plain.FUNCTIONS.items():
            code = generated(function, *make(SHAPES[SHAPE], DTYPES[dtype]))
            with tempfile.TemporaryDirectory() as folder:
                costs = list(_costs_of(case, dtype, code, Path(folder), capabilities))
            kernels += map(asdict, costs)
            moved = sum(cost.bytes_an_element for cost in costs if cost.capability == capabilities[0])
            # Inductor's own kernels, and the one that draws a graph's seed
            launches = len(_RUN.findall(code)) + code.count("aten.randint.low_out(")
            traffic.append(
                {"case": case, "provider": "torch.compile", "dtype": dtype, "launches": launches}
                | {"bytes_an_element": moved, "reads": 0}
            )
    return {"kernels": kernels, "traffic": traffic}


def counted(cache: Cache, capabilities: tuple[int, ...]) -> tuple[list[KernelCost], list[Traffic]]:
    """What `count` finds in a process of its own.

    Raises
    ------
    RuntimeError
        With the process's last line, where this version of PyTorch writes code that cannot be read.
    """

    def run() -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.kernel_cost.inductor", *map(str, capabilities)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_ROOT)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
        return json.loads(done.stdout)

    found = cache.get(key_of_generated(capabilities), run)
    kernels = [KernelCost(**{**record, "code": Code(**record["code"])}) for record in found["kernels"]]
    return kernels, [Traffic(**record) for record in found["traffic"]]


if __name__ == "__main__":
    with mock.patch("warnings.warn"):
        print(json.dumps(count(tuple(map(int, sys.argv[1:])))))
