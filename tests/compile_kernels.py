"""Compile every kernel for a GPU that need not be there: `python tests/compile_kernels.py cuda 90 32`.

A process of its own, since kernels that were imported for the interpreter cannot be compiled. Prints a line for
each kernel; the last says how many there were.
"""

import importlib
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ELEMENTWISE = ("noise", "q_sample", "reverse_step")
ADDRESS = {"seed_low": "i32", "seed_high": "i32", "step": "i32", "sample_low": "i32", "sample_high": "i32"}
IN_TENSORS = {"seed_ptr": "*i32", "step_ptr": "*i32", "sample_ptr": "*i32"}
TABLE = {"t_ptr": "*i64", "table_ptr": "*fp32"}
COMMON = {"STREAM": 3, "STEP_ROWS": True, "T_ROWS": True, "WIDE": False, "WHOLE": True, "BLOCKS": 256, "COLUMNS": 13}
# (WALK, CHANNELS, VECTOR)
WALKS = {
    "*fp32": (("contiguous", 1, 4), ("pixels", 4, 4), ("elements", 3, 1)),
    "*bf16": (("contiguous", 1, 8), ("pixels", 3, 1)),
}


def cases() -> list[tuple[str, dict[str, str], dict[str, Any]]]:
    """(op, the types of its arguments, its constants); pointers that are not named are None."""
    found: list[tuple[str, dict[str, str], dict[str, Any]]] = []
    for kind, walks in WALKS.items():
        for walk, channels, vector in walks:
            layout = {**COMMON, "WALK": walk, "CHANNELS": channels, "VECTOR": vector, "WHOLE": walk != "elements"}
            step = {"x_t_ptr": kind, "output_ptr": kind, "x_s_ptr": kind, **TABLE, **ADDRESS}
            found += [
                ("noise", {"eps_ptr": kind, **ADDRESS, **IN_TENSORS}, layout),
                ("q_sample", {"x_0_ptr": kind, "x_t_ptr": kind, **TABLE, **ADDRESS}, layout),
                ("q_sample", {"x_0_ptr": "*u8", "x_t_ptr": kind, "eps_out_ptr": kind, **TABLE, **ADDRESS}, layout),
                ("reverse_step", step, {**layout, "NOISY": True, "CLIP": False, "OWN_EPS": False, "LEARNED": False}),
                (
                    "reverse_step",
                    {**step, "unconditional_ptr": kind, "x_0_ptr": kind},
                    {**layout, "NOISY": True, "CLIP": True, "OWN_EPS": True, "LEARNED": True},
                ),
            ]
            if walk == "pixels":
                layout = {**layout, "WALK": "channels", "VECTOR": 1}
            found += [
                ("simple_loss", {"output_ptr": kind, "sums_ptr": "*fp32", **ADDRESS}, {**layout, "PREDICTION": "eps"}),
                (
                    "simple_loss",
                    {"output_ptr": kind, "x_0_ptr": "*u8", "weight_ptr": "*fp32", "residual_ptr": kind}
                    | {"sums_ptr": "*fp32", **TABLE, **ADDRESS},
                    {**layout, "PREDICTION": "v"},
                ),
            ]
    # float64 in and out, and samples too large for 32 bits
    layout = {**COMMON, "WALK": "contiguous", "CHANNELS": 1, "VECTOR": 2}
    double = {"x_0_ptr": "*fp64", "x_t_ptr": "*fp64", "eps_ptr": "*fp64", "t_ptr": "*i64", "table_ptr": "*fp64"}
    found.append(("q_sample", double, layout))
    for walk, channels in (("contiguous", 1), ("pixels", 4)):
        layout = {**COMMON, "WALK": walk, "CHANNELS": channels, "VECTOR": 4, "WIDE": True, "WHOLE": False}
        found.append(("q_sample", {"x_0_ptr": "*fp32", "x_t_ptr": "*fp32", **TABLE, **ADDRESS}, layout))
    doubles = {"t_ptr": "*i64", "table_ptr": "*fp64", "half_bin_ptr": "*fp64", "sums_ptr": "*fp64"}
    images = {"x_0_ptr": "*fp32", "x_t_ptr": "*fp32", "output_ptr": "*fp32"}
    for variance in ("beta", "learned_range"):
        constants = {**COMMON, "CHANNELS": 1, "VARIANCE": variance, "CLIP": True}
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
    # as torch allocates it
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    options = {"enable_fp_fusion": False, "num_warps": 1 if "WALK" in constants else 4}
    return triton.compile(source, target=target, options=options)


def main(backend: str, architecture: str, warp: str) -> None:
    """Compile them all; the first that fails ends the process with its error."""
    target = GPUTarget(backend, int(architecture) if backend == "cuda" else architecture, int(warp))
    everything = cases()
    for op, types, constants in everything:
        compiled = build(op, types, constants, target)
        shared = compiled.metadata.shared
        if shared and op in ELEMENTWISE:
            raise RuntimeError(f"{op} with {types} and {constants} passes {shared} bytes through shared memory")
        print(op, shared, "bytes of shared memory")
    print(len(everything), "kernels")


if __name__ == "__main__":
    main(*sys.argv[1:])
