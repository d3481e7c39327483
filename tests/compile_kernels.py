"""Compile every kernel for a GPU that need not be there: `python tests/compile_kernels.py cuda 90 32`.

A process of its own, since kernels that were imported for the interpreter cannot be compiled. Prints a line for
each kernel; the last says how many there were.
"""

import importlib
import itertools
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ADDRESS = {"seed": "i64", "step": "i32", "sample": "i64"}
TENSORS = ("seed_ptr", "step_ptr", "sample_ptr")
TABLE = {"t_ptr": "*i64", "table_ptr": "*fp32"}
COMMON = {"STREAM": 3, "STEP_ROWS": True, "T_ROWS": True, "WIDE": False, "BLOCKS": 64, "COLUMNS": 13}


def cases() -> list[tuple[str, dict[str, str], dict[str, Any]]]:
    """(op, the types of its arguments, its constants); pointers that are not named are None."""
    found: list[tuple[str, dict[str, str], dict[str, Any]]] = []
    for kind, channels_last in itertools.product(("*fp32", "*bf16"), (False, True)):
        layout = {**COMMON, "CHANNELS_LAST": channels_last}
        step = {"x_t_ptr": kind, "output_ptr": kind, "x_s_ptr": kind, **TABLE, **ADDRESS}
        found += [
            (
                "noise",
                {"eps_ptr": kind, **ADDRESS, "step_ptr": "*i64", "sample_ptr": "*i64", "seed_ptr": "*i64"},
                layout,
            ),
            ("q_sample", {"x_0_ptr": kind, "x_t_ptr": kind, **TABLE, **ADDRESS}, layout),
            ("q_sample", {"x_0_ptr": "*u8", "x_t_ptr": kind, "eps_out_ptr": kind, **TABLE, **ADDRESS}, layout),
            ("simple_loss", {"output_ptr": kind, "sums_ptr": "*fp32", **ADDRESS}, {**layout, "PREDICTION": "eps"}),
            (
                "simple_loss",
                {"output_ptr": kind, "x_0_ptr": "*u8", "weight_ptr": "*fp32", "residual_ptr": kind}
                | {"sums_ptr": "*fp32", **TABLE, **ADDRESS},
                {**layout, "PREDICTION": "v"},
            ),
            ("reverse_step", step, {**layout, "NOISY": True, "CLIP": False, "LEARNED": False}),
            (
                "reverse_step",
                {**step, "unconditional_ptr": kind, "x_0_ptr": kind},
                {**layout, "NOISY": True, "CLIP": True, "LEARNED": True},
            ),
        ]
    doubles = {"t_ptr": "*i64", "table_ptr": "*fp64", "half_bin_ptr": "*fp64", "sums_ptr": "*fp64"}
    images = {"x_0_ptr": "*fp32", "x_t_ptr": "*fp32", "output_ptr": "*fp32"}
    for variance in ("beta", "learned_range"):
        constants = {**COMMON, "CHANNELS_LAST": False, "VARIANCE": variance, "CLIP": True}
        found.append(("vlb_terms", {**images, **doubles}, constants))
    found.append(("pairwise_sum", {"values_ptr": "*fp32", "sums_ptr": "*fp32"}, {"SIZE": 1024}))
    return found


def build(op: str, types: dict[str, str], constants: dict[str, Any], target: GPUTarget) -> Any:
    """The compiled kernel of an op; arguments without a type or a value are int32, pointers None."""
    kernel = importlib.import_module(f"noisestep.accelerated.ops.{op}")._kernel
    signature, values = {}, {}
    for name in kernel.arg_names:
        if name in types:
            signature[name] = types[name]
        elif name in constants or name.endswith("_ptr"):
            signature[name] = "constexpr"
            values[name] = constants.get(name)
        else:
            signature[name] = "i32"
    source = ASTSource(fn=kernel, signature=signature, constexprs=values)
    return triton.compile(source, target=target, options={"enable_fp_fusion": False})


def main(backend: str, architecture: str, warp: str) -> None:
    """Compile them all; the first that fails ends the process with its error."""
    target = GPUTarget(backend, int(architecture) if backend == "cuda" else architecture, int(warp))
    everything = cases()
    for op, types, constants in everything:
        compiled = build(op, types, constants, target)
        print(op, compiled.metadata.shared, "bytes of shared memory")
    print(len(everything), "kernels")


if __name__ == "__main__":
    main(*sys.argv[1:])
