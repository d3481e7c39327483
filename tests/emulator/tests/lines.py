"""Kernels around a few lines of PTX or AMD assembly, which load each thread's inputs and store its outputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import amd, ptx

_PTX = """
.version 8.8
.target sm_100a
.address_size 64
.visible .entry lines({parameters})
.reqntid {threads}
{{
    .reg .b32 %thread;
    .reg .b64 %at;
    {declarations}
    mov.u32 %thread, %tid.x;
    {loads}
    {lines}
    {stores}
    ret;
}}
"""


def run_ptx(lines: str, inputs: Sequence[np.ndarray], outputs: Sequence[Any], **options: Any) -> list[np.ndarray]:
    """Run lines of PTX in which %i0, %i1, ... are inputs and %o0, %o1, ... outputs, one element a thread.

    Parameters
    ----------
    lines : str
        Each ends with a semicolon; %p0 to %p3 and %x0 to %x3 (32 bits) are free.
    inputs : sequence of ndarray, shapes (n,)
        n is a multiple of 32. Registers have as many bits as the elements; those of bool are predicates.
    outputs : sequence of dtype
    **options
        For `emulator.ptx.launch`.

    Returns
    -------
    list of ndarray
    """
    n = len(inputs[0])
    results = [np.zeros(n, dtype) for dtype in outputs]
    declarations = [".reg .pred %p<4>;", ".reg .b32 %x<4>;", ".reg .b16 %h<2>;"]
    loads, stores = [], []
    for i, array in enumerate([*inputs, *results]):
        name = f"%i{i}" if i < len(inputs) else f"%o{i - len(inputs)}"
        size = array.itemsize
        at = f"ld.param.u64 %at, [a{i}]; mad.wide.u32 %at, %thread, {size}, %at;"
        if array.dtype == np.bool_:
            declarations.append(f".reg .pred {name};")
            if i < len(inputs):
                loads.append(f"{at} ld.global.u8 %h0, [%at]; setp.ne.u16 {name}, %h0, 0;")
            else:
                stores.append(f"{at} selp.u16 %h0, 1, 0, {name}; st.global.u8 [%at], %h0;")
            continue
        declarations.append(f".reg .b{max(16, 8 * size)} {name};")
        kind = f"b{8 * size}"
        if i < len(inputs):
            loads.append(f"{at} ld.global.{kind} {name}, [%at];")
        else:
            stores.append(f"{at} st.global.{kind} [%at], {name};")
    arrays = [np.ascontiguousarray(array) for array in inputs] + results
    text = _PTX.format(
        parameters=", ".join(f".param .u64 a{i}" for i in range(len(arrays))),
        threads=n,
        declarations="\n    ".join(declarations),
        loads="\n    ".join(loads),
        lines=lines,
        stores="\n    ".join(stores),
    )
    ptx.launch(text, (1,), arrays, **options)
    return results


_AMD = """
lines:
    {loads}
    {lines}
    {stores}
    s_endpgm
.Lfunc_end0:
    .amdhsa_kernel lines
        .amdhsa_group_segment_fixed_size 0
        .amdhsa_private_segment_fixed_size 0
        .amdhsa_kernarg_size {size}
        .amdhsa_user_sgpr_count 2
        .amdhsa_user_sgpr_kernarg_segment_ptr 1
        .amdhsa_wavefront_size32 {narrow}
        .amdhsa_system_sgpr_workgroup_id_x 1
        .amdhsa_float_round_mode_32 0
        .amdhsa_float_round_mode_16_64 0
        .amdhsa_float_denorm_mode_32 3
        .amdhsa_float_denorm_mode_16_64 3
    .end_amdhsa_kernel
    {arguments}
"""


def run_amd(
    lines: str, inputs: Sequence[np.ndarray], outputs: Sequence[Any], *, lanes: int = 32, **options: Any
) -> list[np.ndarray]:
    """Run lines of AMD assembly: input i is in v10+2i (and the next), output i is read from v40+2i (and the next).

    Parameters
    ----------
    lines : str
    inputs : sequence of ndarray, shapes (n,)
        n is a multiple of `lanes`; elements of 4 or 8 bytes.
    outputs : sequence of dtype
    lanes : {32, 64}
        Of a wave.
    **options
        For `emulator.amd.launch`.

    Returns
    -------
    list of ndarray
    """
    n = len(inputs[0])
    results = [np.zeros(n, dtype) for dtype in outputs]
    loads, stores = [], []
    for i, array in enumerate([*inputs, *results]):
        size = array.itemsize
        first = 10 + 2 * i if i < len(inputs) else 40 + 2 * (i - len(inputs))
        register = f"v{first}" if size == 4 else f"v[{first}:{first + 1}]"
        at = f"s_load_b64 s[4:5], s[0:1], {8 * i:#x}\n    v_lshlrev_b32 v1, {2 if size == 4 else 3}, v0\n    "
        if i < len(inputs):
            loads.append(f"{at}global_load_b{8 * size} {register}, v1, s[4:5]")
        else:
            stores.append(f"{at}global_store_b{8 * size} v1, {register}, s[4:5]")
    arrays = [np.ascontiguousarray(array) for array in inputs] + results
    text = _AMD.format(
        loads="\n    ".join(loads),
        lines=lines,
        stores="\n    ".join(stores),
        size=8 * len(arrays),
        narrow=int(lanes == 32),
        arguments="\n    ".join(
            f".offset: {8 * i}\n    .size: 8\n    .value_kind: global_buffer" for i in range(len(arrays))
        ),
    )
    amd.launch(text, (1,), arrays, num_warps=n // lanes, **options)
    return results
