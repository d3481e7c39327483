"""Plant faults in the kernels, one at a time, and see that the tests turn red.

    python tests/kernel_faults.py [--op q_sample] [--list]

Each fault replaces a text that stands exactly once in a file, in a temporary copy of the package, and runs there
the tests of the kernel that it is in. The exit status is 1 if the tests stay green under any of them.
"""

import argparse
import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

CONTEXT = multiprocessing.get_context("forkserver")
ROOT = Path(__file__).parent.parent
# where tests say which op's kernels they are of
FILES = [path for path in sorted(Path(__file__).parent.glob("test_*.py")) if "mark.kernel(" in path.read_text()]


@dataclass(frozen=True)
class Fault:
    """A change to a file of the package under which the tests of an op must fail."""

    op: str
    name: str
    file: str
    old: str
    new: str

    def planted(self, text: str) -> str:
        """The file's text with the fault in it."""
        found = text.count(self.old)
        if found != 1:
            raise ValueError(
                f"{self.op}: {self.name}: the text to replace stands {found} times in {self.file}, not once"
            )
        return text.replace(self.old, self.new)


def _faults(op: str, file: str, changes: dict[str, tuple[str, str]]) -> list[Fault]:
    return [Fault(op, name, f"accelerated/{file}", *change) for name, change in changes.items()]


FAULTS = [
    *_faults(
        "noise",
        "backends/triton/kernels.py",
        {
            "9 rounds of Philox": ("tl.static_range(10)", "tl.static_range(9)"),
            "another Weyl constant": ("k0 + 0x9E3779B9", "k0 + 0x9E3779B8"),
            "one Weyl constant for both": ("k1 + 0xBB67AE85", "k1 + 0x9E3779B9"),
            "another multiplier": ("c2.to(tl.uint64) * 0xCD9E8D57", "c2.to(tl.uint64) * 0xCD9E8D55"),
            "low half for high half": ("(p1 >> 32).to(tl.uint32) ^ c1", "p1.to(tl.uint32) ^ c1"),
            "swapped products": (
                "(p0 >> 32).to(tl.uint32) ^ c3 ^ k1,\n            p0",
                "(p0 >> 32).to(tl.uint32) ^ c3 ^ k1,\n            p1",
            ),
            "swapped words of a pair": ("normal_pair(w0, w1)", "normal_pair(w1, w0)"),
            "swapped normals": (
                "tl.join(tl.join(z0, z2), tl.join(z1, z3))",
                "tl.join(tl.join(z0, z1), tl.join(z2, z3))",
            ),
            "sign from another bit": ("(v << 1) & 0x80000000", "(v << 2) & 0x80000000"),
            "no sign": ("z_0.to(tl.uint32, bitcast=True) ^ (v & 0x80000000)", "z_0.to(tl.uint32, bitcast=True)"),
            "an angle of 21 bits": ("v & 0x7FFFFF", "v & 0x7FFFFD"),
            "angles that are not symmetric": ("| 0x3F800001", "| 0x3F800000"),
            "a square root not corrected": ("return tl.fma(tl.fma(-root, root, x), half, root)", "return root"),
            "the exponent of another binade": ("bits - 0x3F2AAAAB", "bits - 0x3F000000"),
            "an fma in two roundings": ("tl.fma(-x, odd, even)", "(even - x * odd)"),
            "a coefficient short": ("_horner(m, _LOG, 7)", "_horner(m, _LOG, 6)"),
            "no stream": ("& 0xFFFFFFF) | (STREAM << 28)", "& 0xFFFFFFF)"),
            "no high word of the sample": ("sample_high, 2 * row + 1)", "sample_high, 2 * row + 1) & 0"),
            "no high word of the seed": ("seed_high, 1)", "seed_high, 1) & 0"),
            "one sample for all rows": ("low + row.to(tl.uint32)", "low"),
            "no carry into the sample's high word": ("c3 + (c2 < low).to(tl.uint32)", "c3"),
            "one step for all rows": ("2 * row if STEP_ROWS", "0 * row if STEP_ROWS"),
            "blocks of a unit one after the other": ("tl.join(even, odd)", "tl.join(odd, even)"),
            "elements of a unit in the blocks' order": (
                "(_in_turn(z0, z1), _in_turn(z2, z3))",
                "(_in_turn(z0, z2), _in_turn(z1, z3))",
            ),
        },
    ),
    *_faults(
        "noise",
        "backends/triton/tiling.py",
        {
            "every program the first units": (
                "return program * UNITS + tl.arange(0, UNITS)",
                "return program * 0 + tl.arange(0, UNITS)",
            ),
            "one block for a unit of two": ("unit * blocks_of_unit(TILING)", "unit"),
            "a sample's third axis left out": (
                "+ tl.program_id(2).to(tl.int64) * tl.num_programs(1)",
                "+ tl.program_id(2).to(tl.int64) * 0",
            ),
        },
    ),
    *_faults(
        "noise",
        "ops/noise.py",
        {
            "the last partial block left out": ("number < n", "number < n // 4 * 4"),
            "no mask": ("None if TILING.whole else number < n", "None"),
        },
    ),
    *_faults(
        "q_sample",
        "ops/q_sample.py",
        {
            "the last element masked": ("number < n\n", "number < n - 1\n"),
            "t off by one": (
                "row_of_table(t_ptr, row, rows, T_ROWS, 2)",
                "row_of_table(t_ptr, row, rows, T_ROWS, 2) - 2",
            ),
            "one t for all": ("row_of_table(t_ptr, row, rows, T_ROWS, 2)", "row_of_table(t_ptr, row, rows, False, 2)"),
            "swapped coefficients": (
                "signal, noise = tl.load(coefficients), tl.load(coefficients + 1)",
                "noise, signal = tl.load(coefficients), tl.load(coefficients + 1)",
            ),
            "a missing square root": ("noise * eps.to(compute)", "noise * noise * eps.to(compute)"),
            "noise lost": ("x_t = signal * x_0 + noise * eps.to(compute)", "x_t = signal * x_0"),
            "subtracted": ("signal * x_0 + noise", "signal * x_0 - noise"),
            "fused": (
                "x_t = signal * x_0 + noise * eps.to(compute)",
                "x_t = tl.fma(signal + 0 * x_0, x_0, noise * eps.to(compute))",
            ),
            "the given eps not read": ("else tl.load(eps_ptr + offset, mask=mask)", "else 0 * x_0"),
            "eps of another place": ("tl.store(eps_out_ptr + offset", "tl.store(eps_out_ptr + row * n + number"),
            "eps not returned": (
                "            tl.store(eps_out_ptr + offset, kernels.cast(eps, eps_out_ptr), mask=mask)",
                "            pass",
            ),
            "x_t for eps": ("kernels.cast(eps, eps_out_ptr)", "kernels.cast(x_t, eps_out_ptr)"),
            "the noise of another access": ("fresh[i]", "fresh[0]"),
            "float32 throughout": (
                "compute: tl.constexpr = table_ptr.dtype.element_ty",
                "compute: tl.constexpr = tl.float32",
            ),
        },
    ),
    *_faults(
        "q_sample",
        "backends/triton/kernels.py",
        {
            "truncation": (
                "    return value.to(pointer.dtype.element_ty)",
                "    if pointer.dtype.element_ty == tl.bfloat16:\n"
                '        value = value.to(tl.bfloat16, fp_downcast_rounding="rtz")\n'
                "    return value.to(pointer.dtype.element_ty)",
            ),
            "levels in [0, 2]": ("2.0 * value - 255.0", "2.0 * value"),
            "256 levels for 255": ("0.00392156862745098", "0.00390625"),
            "bfloat16 upcast to another place": ("to(tl.uint32) << 16", "to(tl.uint32) << 15"),
            "t beyond the table": ("tl.minimum(tl.maximum(t, 0), rows - 1)", "tl.minimum(tl.maximum(t, 0), rows - 2)"),
            "t before the table": ("tl.minimum(tl.maximum(t, 0), rows - 1)", "tl.minimum(tl.maximum(t, 1), rows - 1)"),
        },
    ),
    *_faults(
        "q_sample",
        "backends/triton/tiling.py",
        {
            "channels_last by pixel": ("(element - channel * inner) * CHANNELS + channel", "element"),
            "channels_last the other way": (
                "(element - channel * inner) * CHANNELS + channel",
                "(element - channel * inner) + channel * CHANNELS",
            ),
            "pixels in the order of the channels": ("block = channel * stride + pixels", "block = unit"),
            "channels of a unit next to each other in the noise": ("stride = inner // 4", "stride = 1"),
            "pixels of a unit apart": (
                "begin = pixels * (4 * TILING.channels) + channel",
                "begin = pixels * TILING.channels + channel",
            ),
            "pixels of a unit in one place": ("i * TILING.channels + tl.arange", "0 * TILING.channels + tl.arange"),
            "rows on top of each other": (
                "offset = (row * size + program * (4 * TILING.blocks)) + local",
                "offset = program * (4 * TILING.blocks) + local",
            ),
            "every program the first": (
                "offset = (row * size + program * (4 * TILING.blocks)) + local",
                "offset = row * size + local",
            ),
        },
    ),
    *_faults(
        "q_sample",
        "backends/triton/launch.py",
        {
            "noise of the layout's order": ("Tiling(order, channels, wide", "Tiling(order, 1, wide"),
            "a part of a program for the whole": (
                "n == 4 * blocks * self.programs_a_row",
                "True",
            ),
        },
    ),
    *_faults(
        "pairwise_sum",
        "ops/pairwise_sum.py",
        {
            "the last element masked": ("mask=element < n,", "mask=element < n - 1,"),
            "no mask": ("mask=element < n,", "mask=element < n + 1,"),
            "rows on top of each other": ("values_ptr + row * n + element", "values_ptr + element"),
            "the first chunk alone": ("(program - row * chunks) * SIZE", "(program - row * chunks) * 0"),
            "chunks half read": ("* SIZE + tl.arange(0, SIZE)", "* SIZE + tl.arange(0, SIZE) // 2"),
            "sums in one place": ("tl.store(sums_ptr + program", "tl.store(sums_ptr + row"),
            "the row of the program": ("row = program // chunks", "row = program % chunks"),
            "the last round left out": ("        if chunks == 1:\n", "        if True:\n"),
            "strides ignored": ("    values = values.contiguous()\n", ""),
            "a mean": ("return sums[:, 0]", "return sums[:, 0] / n"),
        },
    ),
    *_faults(
        "pairwise_sum",
        "backends/triton/kernels.py",
        {
            "another order": ("values.reshape((SIZE // 2, 2)), axis=1", "values.reshape((2, SIZE // 2)), axis=0"),
            "the order of the library": (
                "    if SIZE > 1:\n        total = pairwise_sum(",
                "    if SIZE > 2048:\n        total = pairwise_sum(",
            ),
        },
    ),
    *_faults(
        "simple_loss",
        "ops/simple_loss.py",
        {
            "a gradient with the first sample's upstream": (
                "tl.load(grad_ptr + row * GRAD_STRIDE)",
                "tl.load(grad_ptr)",
            ),
            "a gradient without its scale": (
                "kernels.cast(scale * residual, gradient_ptr)",
                "kernels.cast(residual, gradient_ptr)",
            ),
            "a gradient in float64 whose mean is a sum": ("grad = kernels.divide(grad, batch)", "grad = grad"),
            "a gradient whose mean is a sum": (
                "(grad.to(tl.float64) * kernels.float_of_words(inverse_low, inverse_high)).to(tl.float32)",
                "grad",
            ),
            "a gradient's mean by a reciprocal of float32": (
                "(grad.to(tl.float64) * kernels.float_of_words(inverse_low, inverse_high)).to(tl.float32)",
                "grad * kernels.float_of_words(inverse_low, inverse_high).to(tl.float32)",
            ),
            "a gradient of half the square": ("words_of(2 / max(1, layout.n))", "words_of(1 / max(1, layout.n))"),
            "one number upstream taken for many": ("grad.stride(0) if grad.ndim else 0", "1 if grad.ndim else 0"),
            "numbers upstream taken for neighbours": (
                "    if stride > 1:\n        grad, stride = grad.contiguous(), 1\n",
                "    stride = min(stride, 1)\n",
            ),
            "the gradient's last element masked": (
                "TILING.whole else place < n\n",
                "TILING.whole else place < n - 1\n",
            ),
            "a loss without its weight": (
                "losses = tl.load(weight_ptr + row, mask=row < batch, other=0.0) * losses",
                "losses = losses",
            ),
            "a loss with the first sample's weight": (
                "tl.load(weight_ptr + row, mask=row < batch, other=0.0)",
                "tl.load(weight_ptr + 0 * row, mask=row < batch, other=0.0)",
            ),
            "a sum for a loss": (
                "pairwise_sum_of_rows(sums, ROWS, PROGRAMS) * share",
                "pairwise_sum_of_rows(sums, ROWS, PROGRAMS)",
            ),
            "the last program's sum left out": ("(column[None, :] < programs)", "(column[None, :] < programs - 1)"),
            "sums of the wrong rows": (
                "row[:, None].to(tl.int64) * programs + column",
                "row[:, None].to(tl.int64) * PROGRAMS + column",
            ),
            "a mean of one sample more": (
                "kernels.divide(kernels.pairwise_sum(losses, ROWS), batch)",
                "kernels.divide(kernels.pairwise_sum(losses, ROWS), batch + 1)",
            ),
            "a sum for the mean of many": (
                "tl.store(mean_ptr, kernels.divide(total, batch))",
                "tl.store(mean_ptr, total)",
            ),
            "a gradient of the sample before": (
                "tl.store(gradient_ptr + row * n + place",
                "tl.store(gradient_ptr + (row - (row > 0)) * n + place",
            ),
            "the last element masked": (
                "        mask = None if TILING.whole else number < n\n",
                "        mask = None if TILING.whole else number < n - 1\n",
            ),
            "padding in the sum": ("tl.where(mask, squares, 0.0)", "squares"),
            "not squared": ("squares = residual * residual", "squares = tl.abs(residual)"),
            "sums in one place": ("store_sum(sums_ptr, row, program,", "store_sum(sums_ptr, row, 0,"),
            "accesses in another order": (
                "(sums[0] + sums[1]) + (sums[2] + sums[3])",
                "(sums[0] + sums[2]) + (sums[1] + sums[3])",
            ),
            "half of the accesses": ("total = sums[0] + sums[1]", "total = sums[0]"),
            "the weight dropped": ("residual = weight * residual", "residual = residual"),
            "the first sample's weight": ("tl.load(weight_ptr + row)", "tl.load(weight_ptr)"),
            "the gradient's sign": ("compute) - target\n", "compute) * -1 + target\n"),
            "t off by one": (
                "row_of_table(t_ptr, row, rows, T_ROWS, 2)",
                "row_of_table(t_ptr, row, rows, T_ROWS, 2) - 2",
            ),
            "swapped coefficients": (
                "signal, noise = tl.load(coefficients), tl.load(coefficients + 1)",
                "noise, signal = tl.load(coefficients), tl.load(coefficients + 1)",
            ),
            "v with a plus": ("target = signal * target - noise * x_0", "target = signal * target + noise * x_0"),
            "v of eps alone": ("target = signal * target - noise * x_0", "target = signal * target"),
            "eps for x_0": ('if PREDICTION == "x_0":', 'if PREDICTION == "x0":'),
            "the given eps not read": (
                "else tl.load(eps_ptr + offset, mask=mask)",
                "else tl.load(output_ptr + offset, mask=mask)",
            ),
            "levels of uint8 not scaled": (
                "            target = kernels.unit_range(tl.load(x_0_ptr + offset, mask=mask), compute)",
                "            target = tl.load(x_0_ptr + offset, mask=mask).to(compute)",
            ),
            "float32 throughout": (
                "compute: tl.constexpr = sums_ptr.dtype.element_ty\n    if",
                "compute: tl.constexpr = tl.float32\n    if",
            ),
        },
    ),
    *_faults(
        "simple_loss",
        "backends/triton/kernels.py",
        {
            "another order of a row's sums": (
                "values.reshape((ROWS, SIZE // 2, 2)), axis=2",
                "values.reshape((ROWS, 2, SIZE // 2)), axis=1",
            ),
            "a product with the reciprocal": ("tl.div_rn(x, by.to(tl.float32))", "x * (1.0 / by.to(tl.float32))"),
            "a float64 of its high word": (
                "low.to(tl.uint32, bitcast=True).to(tl.uint64) |",
                "0 * low.to(tl.uint64) |",
            ),
        },
    ),
    *_faults(
        "loss_and_gradient",
        "ops/simple_loss.py",
        {
            "not scaled": ("kernels.cast(scale * kernels.upcast(stored, compute), residual_ptr)", "stored"),
            "rounded once": (
                "kernels.cast(scale * kernels.upcast(stored, compute), residual_ptr)",
                "kernels.cast(scale * residual, residual_ptr)",
            ),
            "the scale's high word alone": (
                "kernels.float_of_words(scale_low, scale_high)",
                "kernels.float_of_words(0 * scale_low, scale_high)",
            ),
            "the residual for the gradient": ("            scale is not None,\n", "            False,\n"),
            "the losses for their mean": ("mean=True, residual=True", "mean=False, residual=True"),
            "half of the gradient": ("share = 2 / max(1, prod(output", "share = 1 / max(1, prod(output"),
            "the batch left out": ("np.float32(max(1, len(output)))", "np.float32(1)"),
            "the scale rounded at the end alone": (
                "float(np.float32(scale) / np.float32(max(1, len(output))) * np.float32(share))",
                "float(np.float32(scale / max(1, len(output)) * share))",
            ),
        },
    ),
    *_faults(
        "words",
        "ops/random.py",
        {
            "one block for all": ("(word // 4).to", "(word // 4 * 0).to"),
            "the first word of each block": ("at = word % 4", "at = word % 4 * 0"),
            "swapped words": ("tl.where(at == 2, w2, w3)", "tl.where(at == 2, w3, w2)"),
            "one row for all": ("row = place // count\n", "row = place // count * 0\n"),
            "the last row left out": ("mask = row < batch\n", "mask = row < batch - 1\n"),
            "the first row's address": ("tl.minimum(row, batch - 1)", "tl.minimum(row, 0)"),
            "signed words": ("value.to(tl.int64), mask", "value.to(tl.int32, bitcast=True).to(tl.int64), mask"),
            "every program the first": ("program_id(0).to(tl.int64) * SIZE", "program_id(0).to(tl.int64) * 0"),
            "the last program left out": ("-(-batch * count // _SIZE)", "batch * count // _SIZE"),
        },
    ),
    *_faults(
        "uniform",
        "ops/random.py",
        {
            "25 bits": ("(value >> 8).to", "(value >> 7).to"),
            "the low bits": ("(value >> 8).to", "(value & 0xFFFFFF).to"),
            "in [0, 2)": ("1.0 / (1 << 24)", "1.0 / (1 << 23)"),
            "words": ('KIND == "uniform"', 'KIND == "uniforms"'),
        },
    ),
    *_faults(
        "integers",
        "ops/random.py",
        {
            "the product's low half": ("(product >> 32).to", "product.to"),
            "from 0 on": (".to(tl.int64) + low, mask", ".to(tl.int64), mask"),
            "the highest left out": ("span - (span >> 31 << 32)", "span - 1 - (span >> 31 << 32)"),
            "a signed span": ("span.to(tl.uint32, bitcast=True).to(tl.uint64)", "span.to(tl.int64).to(tl.uint64)"),
            "signed words": (
                "product = value.to(tl.uint64)",
                "product = value.to(tl.int32, bitcast=True).to(tl.int64).to(tl.uint64)",
            ),
        },
    ),
    *_faults(
        "advance",
        "ops/advance.py",
        {
            "backwards": ("tl.load(counter_ptr) + by", "tl.load(counter_ptr) - by"),
            "by one": ("tl.load(counter_ptr) + by", "tl.load(counter_ptr) + 1"),
            "32 bits": ("tl.load(counter_ptr) + by", "(tl.load(counter_ptr) + by).to(tl.int32).to(tl.int64)"),
        },
    ),
    *_faults(
        "simple_loss",
        "backends/triton/tiling.py",
        {
            "rows on top of each other": (
                "offset = (row * size + program * (4 * TILING.blocks)) + local",
                "offset = program * (4 * TILING.blocks) + local",
            ),
            "a channel for the next": (
                "offsets(begin, inner, TILING.channels)",
                "offsets(begin + 4, inner, TILING.channels)",
            ),
            "sums of the rows in one": ("row * programs + program", "program"),
        },
    ),
    *_faults(
        "reverse_step",
        "ops/update.py",
        {
            "the last element masked": ("number < n\n", "number < n - 1\n"),
            "t off by one": (
                "row_of_table(t_ptr, row, rows, T_ROWS, len(C))",
                "row_of_table(t_ptr, row, rows, T_ROWS, len(C)) - len(C)",
            ),
            "one t for all": (
                "row_of_table(t_ptr, row, rows, T_ROWS, len(C))",
                "row_of_table(t_ptr, row, rows, False, len(C))",
            ),
            "swapped coefficients": (
                "unclipped_from_x * x + unclipped_from_out * out",
                "unclipped_from_out * x + unclipped_from_x * out",
            ),
            "noise lost": ("x_s += scale * kernels.upcast(eps, compute)", "x_s += 0 * kernels.upcast(eps, compute)"),
            "noise at t = 1": ("            scale = sigma\n", "            scale = tl.maximum(sigma, 0.01)\n"),
            "a missing square root": (
                "x_s += scale * kernels.upcast(eps, compute)",
                "x_s += scale * scale * kernels.upcast(eps, compute)",
            ),
            "not clipped": (
                "kept = tl.clamp(kept, low, high, propagate_nan=tl.PropagateNan.ALL)",
                "kept = kept",
            ),
            "clipped to the wrong end": ("tl.clamp(kept, low, high", "tl.clamp(kept, -high, high"),
            "NaN clipped away": (", propagate_nan=tl.PropagateNan.ALL)", ")"),
            "DDIM's own eps lost": ("x_s += from_out * out", "x_s += from_out * 0 * out"),
            "another order of the sum": (
                "x_s = from_x_0 * kept + from_x * x\n            if OWN_EPS:\n                x_s += from_out * out",
                "x_s = from_x_0 * kept + (from_x * x + from_out * out)",
            ),
            "guidance the other way": (
                "            out = without + guidance * (out - without)",
                "            out = out + guidance * (without - out)",
            ),
            "guidance ignored": (
                "            out = without + guidance * (out - without)",
                "            out = without + (out - without)",
            ),
            "x_0 of another place": ("tl.store(kept_ptr + offset", "tl.store(kept_ptr + row * n + number"),
            "x_{t-1} for x_0": ("kernels.cast(kept, kept_ptr)", "kernels.cast(x_s, kept_ptr)"),
            "guidance of the first sample": ("row, PER_SAMPLE[0]", "row, False"),
            "a clip of the first sample": ("row, PER_SAMPLE[1]", "row, False"),
            "a temperature of the first sample": ("row, PER_SAMPLE[3]", "row, False"),
            "temperature lost": ("tl.load(c + C.sigma) * temperature", "tl.load(c + C.sigma)"),
            "the given eps not read": ("else tl.load(eps_ptr + offset, mask=mask)", "else x * 0"),
            "learned channels of the prediction": ("output_ptr + out_offset + behind", "output_ptr + out_offset"),
            "learned channels of the sample before": (
                "            out_offset += row * n\n",
                "            out_offset += 0\n",
            ),
            "learned channels_last": ("to(program.dtype) % TILING.channels", "to(program.dtype)"),
            "learned share reversed": (
                "share * half_log_beta + (1 - share) * half_log_posterior",
                "share * half_log_posterior + (1 - share) * half_log_beta",
            ),
            "learned share of [0, 1]": ("share = (fraction + 1) * 0.5", "share = fraction"),
            "learned and guided by the prediction": (
                "unconditional_ptr + out_offset + behind",
                "unconditional_ptr + out_offset",
            ),
        },
    ),
    *_faults(
        "multistep",
        "ops/update.py",
        {
            "swapped coefficients": (
                "x_s = from_x * x + from_prediction * kept",
                "x_s = from_prediction * x + from_x * kept",
            ),
            "the last of the history forgotten": ("if history_4_ptr is not None:", "if False:"),
            "two of the history swapped": (
                "from_history_1 * kernels.upcast(tl.load(history_1_ptr",
                "from_history_2 * kernels.upcast(tl.load(history_1_ptr",
            ),
            "eps of x_0 as it was before the clip": (
                "kept = eps_from_x * x + eps_from_x_0 * kept",
                "kept = unclipped_eps_from_x * x + unclipped_eps_from_out * out",
            ),
            "x_0 remembered for eps": ('if MEMORY == "eps" and not CLIP:', "if False:"),
            "the history read after it is written over": (
                "        out = kernels.upcast(tl.load(output_ptr + out_offset, mask=mask), compute)\n",
                "        out = kernels.upcast(tl.load(output_ptr + out_offset, mask=mask), compute)\n"
                "        if MEMORY is not None and kept_ptr is not None:\n"
                "            tl.store(kept_ptr + offset, kernels.cast(out, kept_ptr), mask=mask)\n",
            ),
        },
    ),
    *_faults(
        "multistep",
        "ops/multistep.py",
        {
            "memory that both write to": ("if in_place and share_memory(keep, x_t):", "if False:"),
            "a part of the history written over": ('check_memory("keep", keep, {**read, "x_t": x_t})', "pass"),
        },
    ),
    *_faults(
        "vlb_terms",
        "ops/vlb_terms.py",
        {
            "the last element masked": ("mask = element < n\n    begin", "mask = element < n - 1\n    begin"),
            "padding in the sum": ("tl.where(mask, nats, 0.0)", "nats"),
            "sums in one place": ("store_sum(sums_ptr, row, program,", "store_sum(sums_ptr, row, 0,"),
            "the decoder at t = 2": ("if begin == len(C):", "if begin == 2 * len(C):"),
            "t off by one": (
                "begin = kernels.row_of_table(t_ptr, row, rows, T_ROWS, len(C))",
                "begin = kernels.row_of_table(t_ptr, row, rows, T_ROWS, len(C)) - len(C)",
            ),
            "half a log variance": (
                "log_ratio = 2 * half_log_posterior - log_variance",
                "log_ratio = half_log_posterior - log_variance",
            ),
            "beta for the posterior": (
                'half_log_beta if VARIANCE == "beta" else half_log_posterior',
                'half_log_posterior if VARIANCE == "beta" else half_log_beta',
            ),
            "no square": ("difference * difference * tl.exp(-log_variance)", "difference * tl.exp(-log_variance)"),
            "not halved": ("- 1 - log_ratio + square) * 0.5", "- 1 - log_ratio + square)"),
            "swapped coefficients": (
                "from_x_0 * predicted + tl.load(c + C.from_x) * x\n",
                "tl.load(c + C.from_x) * predicted + from_x_0 * x\n",
            ),
            "not clipped": (
                "tl.clamp(predicted, low, high, propagate_nan=tl.PropagateNan.ALL)",
                "predicted",
            ),
            "likelihood's sign": ("nats = -_log_likelihood_kernel(", "nats = _log_likelihood_kernel("),
            "no lowest level": (
                "low = tl.where(x_0 < half_bin - 1, -_INFINITE_EDGE, ",
                "low = tl.where(x_0 < -2, -_INFINITE_EDGE, ",
            ),
            "no highest level": (
                "high = tl.where(x_0 > 1 - half_bin, _INFINITE_EDGE, ",
                "high = tl.where(x_0 > 2, _INFINITE_EDGE, ",
            ),
            "levels half as wide": (
                "words_of(1 / (levels - 1), ",
                "words_of(0.5 / (levels - 1), ",
            ),
            "the half level in float32": (
                "kernels.float_of_words(bin_low, bin_high))",
                "kernels.float_of_words(bin_low, bin_high).to(tl.float32).to(tl.float64))",
            ),
            "not mirrored": ("mirrored = low + high < 0", "mirrored = low + high < -1e300"),
            "a short fraction in the tail": ("tl.static_range(40)", "tl.static_range(20)"),
            "a tail without its square": (" - 0.5 * tail_near * tail_near", " - 0.5 * tail_near"),
            "learned channels of the prediction": ("output_ptr + out_offset + behind", "output_ptr + out_offset"),
            "learned channels_last": (
                "out_offset += within // TILING.channels * TILING.channels",
                "out_offset += within // TILING.channels",
            ),
            "learned share reversed": (
                "2 * (share * half_log_beta + (1 - share) * half_log_posterior)\n    out",
                "2 * (share * half_log_posterior + (1 - share) * half_log_beta)\n    out",
            ),
        },
    ),
    *_faults(
        "native",
        "backends/native/noise.h",
        {
            "9 rounds of Philox": ("round < 10", "round < 9"),
            "the sample's high word dropped": ("c3[i] = u32(sample >> 32);", "c3[i] = 0;"),
            "a step of more than 28 bits": ("& 0xFFFFFFFu;", ";"),
            "every row's step that of the first": ("address.steps[row]", "address.steps[0]"),
            "rows that do not count on": ("u64(address.sample) + u64(row)", "u64(address.sample)"),
            "no sign": (
                "as_bits(r * std::fma(x, odd, even)) ^ ((v << 1) & 0x80000000u)",
                "as_bits(r * std::fma(x, odd, even))",
            ),
            "a product rounded before the sum": (
                "return std::fma(horner<I + 1>(x, coefficients), x, coefficients[I]);",
                "return horner<I + 1>(x, coefficients) * x + coefficients[I];",
            ),
        },
    ),
    *_faults(
        "native",
        "backends/native/memory.h",
        {
            "the last tile forgotten": (
                "first < end; first += TILE) work(",
                "first + TILE <= end; first += TILE) work(",
            ),
            "the threads' last stretch cut short": (
                "end = units * (i + 1) / threads;",
                "end = units * (i + 1) / threads - 1;",
            ),
            "eps of the row before": (
                "eps.read(row * n + first, count, buffer);\n    normals(",
                "eps.read((row ? row - 1 : 0) * n + first, count, buffer);\n    normals(",
            ),
            "levels scaled to [0, 1]": ("(2.0f * float(level) - 255.0f)", "(float(level))"),
            "t of the first row": ("count == 1 ? 0 : row * stride;", "0;"),
            "a stride of t forgotten": ("count == 1 ? 0 : row * stride;", "count == 1 ? 0 : row;"),
            "int32 read as int64": (
                "is_int64 ? ((const i64*)t)[i] : ((const i32*)t)[i]",
                "((const i64*)t)[i]",
            ),
            "a row of the table too far": ("at(row) * columns;", "(at(row) + 1) * columns;"),
            "bfloat16 cut off": ("(bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16", "bits >> 16"),
            "bfloat16's ties upwards": ("(bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16", "(bits + 0x8000u) >> 16"),
            "bfloat16's NaN rounded away": (
                "(bits & 0x7FFFFFFFu) > 0x7F800000u ?",
                "(bits & 0x7FFFFFFFu) > 0x7FFFFFFFu ?",
            ),
            "float16's ties upwards": ("0xFFFu + (bits >> 13 & 1u)", "0x1000u"),
            "float16's subnormals lost": ("bits < 0x38800000u ? subnormal", "bits < 0x38800000u ? 0"),
            "float16's subnormals read as normal": ("exponent == 0 ? as_bits(subnormal)", "exponent == 0 ? normal"),
            "float16's infinity read as a number": (
                "exponent == 0x0F800000u ? infinite",
                "exponent == 0x0F800000u ? normal",
            ),
            "float16's NaN an infinity": ("bits > 0x7F800000u ? 0x7E00u", "bits > 0x7F800000u ? 0x7C00u"),
            "a number of the first sample": ("rows[row * stride]", "rows[0]"),
        },
    ),
    *_faults(
        "native",
        "backends/native/sums.h",
        {
            "a tree of distant elements": (
                "halves[i] = values[2 * i] + values[2 * i + 1]",
                "halves[i] = values[i] + values[i + size / 2]",
            ),
        },
    ),
    *_faults(
        "native",
        "backends/native/bound.h",
        {
            "a short series of the exponential": ("I == 13", "I == 9"),
            "an exponential that wraps around": ("x = x > 800.0 ? 800.0 : x;", ""),
            "no lowest level": ("x_0 < half_bin - 1 ?", "x_0 < -2 ?"),
            "no highest level": ("x_0 > 1 - half_bin ?", "x_0 > 2 ?"),
            "an interval that is not mirrored": ("low + high < 0;", "low + high < -1e300;"),
            "a tail without its square": ("- 0.5 * near * near", "- 0.5 * near"),
            "a tail without its fraction": ("k > 0; --k", "k > 12; --k"),
        },
    ),
    *_faults(
        "native",
        "backends/native/ops.cpp",
        {
            "q_sample's coefficients swapped": ("signal = c[0], noise = c[1];", "signal = c[1], noise = c[0];"),
            "v with a sum": ("c[0] * z[i] - c[1] * x_0[i]", "c[0] * z[i] + c[1] * x_0[i]"),
            "a dropped weight": ("difference[i] = weight * difference[i];", "difference[i] = difference[i];"),
            "a gradient rounded once": (
                "a.residual.write(at, count, difference);\n            if (!a.scaled) return;\n",
                "if (!a.scaled) return a.residual.write(at, count, difference);\n",
            ),
            "a gradient without its scale": ("difference[i] = scale * residual[i];", "difference[i] = residual[i];"),
            "the sum of the losses for their mean": ("a.batch.rows) / float(a.batch.rows);", "a.batch.rows);"),
            "the gradient of the sum for the mean's": (
                "(a.mean ? grad / float(a.batch.rows) : grad) * share",
                "grad * share",
            ),
            "the first sample's upstream gradient": ("a.grad[row * a.grad_stride]", "a.grad[0]"),
            "a stride of the upstream gradient forgotten": (
                "a.grad[row * a.grad_stride]",
                "a.grad[a.grad_stride ? row : 0]",
            ),
            "guidance from the wrong side": (
                "without[i] + guidance * (out[i] - without[i])",
                "out[i] + guidance * (out[i] - without[i])",
            ),
            "not clipped below": ("kept[i] < low ? low : kept[i]", "kept[i]"),
            "a NaN that is clipped": (
                "kept[i] > high ? high : kept[i]",
                "kept[i] <= high ? kept[i] : high",
            ),
            "the mean's coefficients swapped": (
                "c[FROM_X_0] * kept[i] + c[FROM_X] * x[i]",
                "c[FROM_X] * kept[i] + c[FROM_X_0] * x[i]",
            ),
            "the unclipped update's swapped": (
                "c[UNCLIPPED_FROM_X] * x[i] + c[UNCLIPPED_FROM_OUT] * out[i]",
                "c[UNCLIPPED_FROM_OUT] * x[i] + c[UNCLIPPED_FROM_X] * out[i]",
            ),
            "eps of its own forgotten": ("if (a.own_eps)", "if (false)"),
            "noise lost": ("next[i] += scale * z[i];", "next[i] += 0 * scale * z[i];"),
            "temperature lost": (" * a.temperature.at(row);", ";"),
            "a term of the history forgotten": ("k < MOST_HISTORY && a.history[k]", "k < 3 && a.history[k]"),
            "x_0 remembered for eps": ("a.memory == OF_EPS && !a.clip", "false"),
            "a clipped x_0 remembered for eps": ("a.clip && a.memory == OF_EPS", "false"),
            "multistep's coefficients swapped": (
                "c[step::FROM_X] * x[i] + c[step::FROM_PREDICTION] * kept[i]",
                "c[step::FROM_PREDICTION] * x[i] + c[step::FROM_X] * kept[i]",
            ),
            "x_0 before the clip": (
                "a.prediction.write(at, count, kept);",
                "a.prediction.write(at, count, next);",
            ),
            "the divergence's one": ("exp_of(ratio) - 1 - ratio", "exp_of(ratio) - ratio"),
            "the divergence of a row": ("std::expm1(row_ratio) - row_ratio", "std::expm1(row_ratio) + row_ratio"),
            "beta for the posterior": (
                "a.beta ? half_log_beta : half_log_posterior",
                "a.beta ? half_log_posterior : half_log_beta",
            ),
            "a difference that is not squared": ("square[i] = difference * difference;", "square[i] = difference;"),
            "the learned share reversed": (
                "share * half_log_beta + (1 - share) * half_log_posterior",
                "share * half_log_posterior + (1 - share) * half_log_beta",
            ),
            "the share among the predictions": ("read(out_at + n, count, fractions)", "read(out_at, count, fractions)"),
            "learned rows as short as others": ("(a.learned ? row * n : 0)", "0"),
            "the decoder at every t": ("a.timesteps.at(row) == 1;", "a.timesteps.at(row) >= 1;"),
            "the likelihood's sign": ("term[i] = -log_likelihood", "term[i] = log_likelihood"),
            "the prediction's clip": ("predicted[i] > a.high ? a.high : predicted[i]", "predicted[i]"),
            "nats for bits": ("std::max<i64>(1, n)) * 0.6931471805599453;", "std::max<i64>(1, n));"),
        },
    ),
    *_faults(
        "native",
        "backends/native/calls.py",
        {
            "the noise of another address": ("kept[:2] != (address, shape)", "kept[1] != shape"),
            "the noise of another shape": ("kept[:2] != (address, shape)", "kept[0] != address"),
            "half a bin in the number of levels": ("1 / (levels - 1))", "1 / levels)"),
        },
    ),
]


def plant(fault: Fault, folder: Path) -> None:
    """Copy the package into a folder, with the fault in it."""
    package = folder / "noisestep"
    shutil.copytree(ROOT / "accelerated" / "cli" / "noisestep", package)
    for part in ("reference", "accelerated"):
        shutil.copytree(ROOT / part, package / part, ignore=shutil.ignore_patterns("__pycache__"))
    path = package / fault.file
    path.write_text(fault.planted(path.read_text()))


def run_tests(op: str, folder: Path) -> None:
    """Run the tests of an op's kernels on the package in a folder, and write pytest's status there."""
    with (folder / "output.txt").open("w") as output:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
    # tests start processes of their own
    os.environ |= {
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NOISESTEP_CACHE": str(folder / "cache"),
    }
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    package = importlib.import_module("noisestep.accelerated")
    if not str(package.__file__).startswith(str(folder)):
        raise RuntimeError(f"the copy in {folder} is not the package that is imported: {package.__file__}")
    options = ["-xq", "-p", "no:cacheprovider", "--hypothesis-profile=written", f"--rootdir={ROOT}"]
    status = pytest.main([*options, *map(str, FILES), "-m", f'kernel(op="{op}")'])
    (folder / "status.txt").write_text(str(int(status)))


def stays_green(fault: Fault) -> tuple[bool, float]:
    """Whether the tests of the fault's op pass in spite of it, and after how many seconds that was known."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plant(fault, folder)
        process = CONTEXT.Process(target=run_tests, args=(fault.op, folder))
        process.start()
        process.join()
        if process.exitcode < 0:
            # ended by a signal, as an access to memory outside may be
            return False, time.monotonic() - started
        status = (folder / "status.txt").read_text() if process.exitcode == 0 else "none"
        if status not in ("0", "1"):
            raise RuntimeError(f"pytest ended with {status}:\n{(folder / 'output.txt').read_text()}")
    return status == "0", time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(description="Plant faults in the kernels and see that the tests turn red.")
    parser.add_argument("--op", choices=sorted({fault.op for fault in FAULTS}), help="only the faults of one op")
    parser.add_argument("--name", help="only the faults whose names contain this")
    parser.add_argument("--list", action="store_true", help="name the faults and plant none")
    arguments = parser.parse_args()
    faults = [f for f in FAULTS if arguments.op in (None, f.op) and (arguments.name or "") in f.name]
    if not faults:
        parser.error(f"no fault of this op is called {arguments.name!r}")
    width = max(len(fault.name) for fault in faults)
    if arguments.list:
        print(*(f"{fault.op:<13} {fault.name}" for fault in faults), sep="\n")
        return 0
    # what they all import is imported once, but for the package, and triton, which is imported for its interpreter
    CONTEXT.set_forkserver_preload(["hypothesis", "numpy", "pytest", "scipy.stats", "torch"])
    green = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for fault, (missed, seconds) in zip(faults, pool.map(stays_green, faults), strict=True):
            green += missed
            print(
                f"{fault.op:<13} {fault.name:<{width}} {'GREEN' if missed else 'red':<5} {seconds:5.1f} s", flush=True
            )
    print(f"{len(faults) - green} of {len(faults)} faults were seen")
    return int(green > 0)


if __name__ == "__main__":
    sys.exit(main())
