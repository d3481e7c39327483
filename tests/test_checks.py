"""Bad calls of every op: refused before anything runs, with the message that each gets."""

import re

import pytest
import torch
from noisestep.accelerated.address import FORWARD, NoiseAddress
from noisestep.accelerated.ops import (
    advance,
    multistep,
    noise,
    pairwise_sum,
    q_sample,
    reverse_step,
    simple_loss,
    vlb_terms,
)
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.reference import Schedule
from op_cases import device_schedule

D = device_schedule("linear", 50)
ZERO = device_schedule("linear", 50, True)
NO = NoiseAddress(0, FORWARD, 0)
X = torch.zeros(2, 3, 4)
INT = torch.zeros(2, 3, 4, dtype=torch.int32)
CONJUGATE = torch.zeros(2, 3, 4, dtype=torch.complex64).conj()
META = torch.zeros(2, 3, 4, device="meta")
T2 = torch.tensor([1, 2])

BAD_Q_SAMPLE = {
    "x_0 a list": ((D, [1.0], 1, NO), {}, TypeError, "x_0 must be a tensor, got list"),
    "x_0 int32": (
        (D, INT, 1, NO),
        {},
        TypeError,
        "x_0 must be one of float32, float16, bfloat16, float64, uint8, got int32",
    ),
    "x_0 complex": ((D, X.to(torch.complex64), 1, NO), {}, TypeError, "got complex64"),
    "no batch": ((D, X[0, 0, 0], 1, NO), {}, ValueError, "x_0 must have shape (B, ...), got a tensor with no axis"),
    "a reference schedule": (
        (D.schedule, X, 1, NO),
        {},
        TypeError,
        "schedule must be a DeviceSchedule, got Schedule",
    ),
    "another device": (
        (D, META, 1, NO),
        {},
        ValueError,
        "schedule is on cpu, x_0 on meta; both must be on one device",
    ),
    "t a float": ((D, X, 1.0, NO), {}, TypeError, "t must be an int or a tensor of integers, got 1.0"),
    "t a bool": ((D, X, True, NO), {}, TypeError, "t must be an int or a tensor of integers, got True"),
    "t None": ((D, X, None, NO), {}, TypeError, "t must be an int or a tensor of integers, got None"),
    "t of floats": ((D, X, torch.ones(2), NO), {}, TypeError, "t must be int64 or int32, got float32"),
    "three t": (
        (D, X, torch.ones(3, dtype=torch.int64), NO),
        {},
        ValueError,
        "t must have shape () or (2,) to fit x_0, got (3,)",
    ),
    "t in rows": ((D, X, T2[None], NO), {}, ValueError, "t must have shape () or (2,) to fit x_0, got (1, 2)"),
    "t elsewhere": ((D, X, T2.to("meta"), NO), {}, ValueError, "t is on meta, x_0 on cpu; both must be on one device"),
    "t below": ((D, X, -1, NO), {}, ValueError, "t must lie in 0..50, got values from -1 to -1"),
    "t above": ((D, X, torch.tensor([3, 51]), NO), {}, ValueError, "t must lie in 0..50, got values from 3 to 51"),
    "noise a seed": ((D, X, 1, 7), {}, TypeError, "noise must be a NoiseAddress or a tensor, got int"),
    "noise None": ((D, X, 1, None), {}, TypeError, "noise must be a NoiseAddress or a tensor, got NoneType"),
    "noise that broadcasts": (
        (D, X, 1, X[:1]),
        {},
        ValueError,
        "noise must have shape (2, 3, 4) to fit x_0, got (1, 3, 4)",
    ),
    "noise of integers": (
        (D, X, 1, INT),
        {},
        TypeError,
        "noise must be one of float32, float16, bfloat16, float64, got",
    ),
    "noise elsewhere": ((D, X, 1, META), {}, ValueError, "noise is on meta, x_0 on cpu; both must be on one device"),
    "three samples": (
        (D, X, 1, NoiseAddress(0, FORWARD, 0, torch.arange(3))),
        {},
        ValueError,
        "noise.sample must have 2 elements for a batch of 2, got shape (3,)",
    ),
    "dtype int8": (
        (D, X, 1, NO),
        {"dtype": torch.int8},
        TypeError,
        "dtype must be one of float32, float16, bfloat16, float64, got torch.int8",
    ),
    "dtype a string": ((D, X, 1, NO), {"dtype": "float32"}, TypeError, "dtype must be one of float32"),
}
BAD_SIMPLE_LOSS = {
    "output None": ((None, NO), {}, TypeError, "output must be a tensor, got NoneType"),
    "output uint8": (
        (X.to(torch.uint8), NO),
        {},
        TypeError,
        "output must be one of float32, float16, bfloat16, float64",
    ),
    "no noise": ((X, None), {}, TypeError, "noise must be a NoiseAddress or a tensor, got NoneType"),
    "noise that broadcasts": (
        (X, X[:, :1]),
        {},
        ValueError,
        "noise must have shape (2, 3, 4) to fit output, got (2, 1, 4)",
    ),
    "noise where none is": (
        (X, "typo"),
        {"prediction": "x_0", "x_0": X},
        TypeError,
        "noise must be a NoiseAddress or a tensor, got str",
    ),
    "prediction": (
        (X, NO),
        {"prediction": "epsilon"},
        ValueError,
        "prediction must be one of 'eps', 'x_0', 'v', 'flow', got 'epsilon'",
    ),
    "reduction": ((X, NO), {"reduction": "sum"}, ValueError, "reduction must be one of 'mean', 'none', got 'sum'"),
    "x_0 missing": ((X, None), {"prediction": "x_0"}, ValueError, 'prediction="x_0" needs x_0, got None'),
    "x_0 missing for v": (
        (X, NO),
        {"prediction": "v", "schedule": D, "t": 1},
        ValueError,
        'prediction="v" needs x_0, got None',
    ),
    "x_0 of another shape": (
        (X, NO),
        {"prediction": "v", "schedule": D, "t": 1, "x_0": X[:1]},
        ValueError,
        "x_0 must have shape (2, 3, 4) to fit output, got (1, 3, 4)",
    ),
    "x_0 of integers": ((X, NO), {"prediction": "x_0", "x_0": INT}, TypeError, "x_0 must be one of float32"),
    "schedule missing": (
        (X, NO),
        {"prediction": "v", "t": 1, "x_0": X},
        ValueError,
        'prediction="v" needs schedule and t, got schedule=None, t=1',
    ),
    "t missing": (
        (X, NO),
        {"prediction": "v", "schedule": D, "x_0": X},
        ValueError,
        'prediction="v" needs schedule and t, got schedule=DeviceSchedule(',
    ),
    "t above": (
        (X, NO),
        {"prediction": "v", "schedule": D, "t": 51, "x_0": X},
        ValueError,
        "t must lie in 0..50, got values from 51 to 51",
    ),
    "three weights": (
        (X, NO),
        {"weight": torch.ones(3)},
        ValueError,
        "weight must have shape (2,) to fit output, got (3,)",
    ),
    "t = 0": (
        (X, NO),
        {"prediction": "v", "schedule": D, "t": torch.tensor([0, 1]), "x_0": X},
        ValueError,
        "t must lie in 1..50, got values from 0 to 1",
    ),
    "one t = 0": (
        (X.double(), NO),
        {"prediction": "v", "schedule": D, "t": 0, "x_0": X},
        ValueError,
        "t must lie in 1..50, got values from 0 to 0",
    ),
    "a weight": ((X, NO), {"weight": 0.5}, TypeError, "weight must be a tensor, got float"),
    "whole weights": ((X, NO), {"weight": T2}, TypeError, "weight must be one of float32, float16, bfloat16, float64"),
}
BAD_REVERSE_STEP = {
    "x_t uint8": ((D, X.to(torch.uint8), X, 1, NO), {}, TypeError, "x_t must be one of float32"),
    "schedule None": ((None, X, X, 1, NO), {}, TypeError, "schedule must be a DeviceSchedule, got NoneType"),
    "output of another shape": (
        (D, X, X[:1], 1, NO),
        {},
        ValueError,
        "output must have shape (2, 3, 4) to fit x_t, got (1, 3, 4)",
    ),
    "output without the variance": (
        (D, X, X, 1, NO),
        {"variance": "learned_range"},
        ValueError,
        "output must have shape (2, 6, 4) to fit x_t, got (2, 3, 4)",
    ),
    "no channels": (
        (D, X[:, 0, 0], X[:, 0, 0], 1, NO),
        {"variance": "learned_range"},
        ValueError,
        'variance="learned_range" needs x_t of shape (B, C, ...), got (2,)',
    ),
    "output a pair": ((D, X, (X, X), 1, NO), {}, TypeError, "output must be a tensor, got tuple"),
    "one output with guidance": (
        (D, X, X, 1, NO),
        {"guidance": 2.0},
        ValueError,
        "output must have shape (4, 3, 4) to fit x_t with guidance, got (2, 3, 4)",
    ),
    "three outputs": (
        (D, X, (X, X, X), 1, NO),
        {"guidance": 2.0},
        TypeError,
        "with guidance, output must be a tensor of two batches or a pair (unconditional, conditional), got tuple",
    ),
    "a pair that differs": (
        (D, X, (X, X[:1]), 1, NO),
        {"guidance": 2.0},
        ValueError,
        "the conditional output must have shape (2, 3, 4) to fit x_t, got (1, 3, 4)",
    ),
    "guidance a string": ((D, X, (X, X), 1, NO), {"guidance": "2"}, TypeError, "guidance must be a number, got '2'"),
    "guidance NaN": (
        (D, X, (X, X), 1, NO),
        {"guidance": float("nan")},
        ValueError,
        "guidance must be finite and lie in -inf..inf, got nan",
    ),
    "prediction": ((D, X, X, 1, NO), {"prediction": "mu"}, ValueError, "prediction must be one of 'eps', 'x_0', 'v'"),
    "variance": (
        (D, X, X, 1, NO),
        {"variance": "fixed_small"},
        ValueError,
        "variance must be one of 'posterior', 'beta', 'zero', 'learned_range', got 'fixed_small'",
    ),
    "eps at zero terminal SNR": ((ZERO, X, X, 1, NO), {}, ValueError, "eps tells nothing of x_0 there"),
    "clip backwards": (
        (D, X, X, 1, NO),
        {"clip": (1, -1)},
        ValueError,
        "clip must be (low, high) with low < high, or None, got (1, -1)",
    ),
    "clip a number": ((D, X, X, 1, NO), {"clip": 1.0}, ValueError, "clip must be (low, high) with low < high, or None"),
    "clip of strings": ((D, X, X, 1, NO), {"clip": "ab"}, ValueError, "clip must be (low, high) with low < high"),
    "clip NaN": ((D, X, X, 1, NO), {"clip": (float("nan"), 1)}, ValueError, "clip must be (low, high) with low < high"),
    "eta above": ((D, X, X, 1, NO), {"eta": 1.5}, ValueError, "eta must be finite and lie in 0..1, got 1.5"),
    "eta a bool": ((D, X, X, 1, NO), {"eta": True}, TypeError, "eta must be a number, got True"),
    "temperature": (
        (D, X, X, 1, NO),
        {"temperature": -1.0},
        ValueError,
        "temperature must be finite and lie in 0..inf, got -1.0",
    ),
    "guidance of integers": (
        (D, X, (X, X), 1, NO),
        {"guidance": T2},
        TypeError,
        "guidance must be one of float32, float16, bfloat16, float64, got int64",
    ),
    "three guidances": (
        (D, X, (X, X), 1, NO),
        {"guidance": torch.ones(3)},
        ValueError,
        "guidance must be a number or have shape () or (2,) to fit x_t, got (3,)",
    ),
    "guidance elsewhere": (
        (D, X, (X, X), 1, NO),
        {"guidance": torch.ones(2, device="meta")},
        ValueError,
        "guidance is on meta, x_t on cpu; both must be on one device",
    ),
    "guidance that wants a gradient": (
        (D, X, (X, X), 1, NO),
        {"guidance": torch.ones(2, requires_grad=True)},
        ValueError,
        "guidance requires a gradient, and this op gives none to it",
    ),
    "an infinite guidance in a tensor": (
        (D, X, (X, X), 1, NO),
        {"guidance": torch.tensor([1.0, float("inf")])},
        ValueError,
        "guidance must be finite and lie in -inf..inf, got values from 1 to inf",
    ),
    "a temperature below 0 in a tensor": (
        (D, X, X, 1, NO),
        {"temperature": torch.tensor([1.0, -0.5])},
        ValueError,
        "temperature must be finite and lie in 0..inf, got values from -0.5 to 1",
    ),
    "temperature None": ((D, X, X, 1, NO), {"temperature": None}, TypeError, "temperature must be a number, got None"),
    "clip of two shapes": (
        (D, X, X, 1, NO),
        {"clip": (torch.ones(2, 1), 1.0)},
        ValueError,
        "clip's low end must be a number or have shape () or (2,) to fit x_t, got (2, 1)",
    ),
    "clip backwards for a sample": (
        (D, X, X, 1, NO),
        {"clip": (torch.tensor([-1.0, 2.0]), 1.0)},
        ValueError,
        "clip must be (low, high) with low < high, or None, got (tensor([-1.,  2.]), 1.0)",
    ),
    "clip NaN in a tensor": (
        (D, X, X, 1, NO),
        {"clip": (-1.0, torch.tensor(float("nan")))},
        ValueError,
        "clip must be (low, high) with low < high, or None, got (-1.0, tensor(nan))",
    ),
    "clip of a tensor and a string": (
        (D, X, X, 1, NO),
        {"clip": (torch.tensor(-1.0), "1")},
        TypeError,
        "clip's high end must be a number, got '1'",
    ),
    "noise missing": (
        (D, X, X, 1, None),
        {"eta": 0.5},
        ValueError,
        "this update adds noise (variance='posterior', eta=0.5); noise must not be None",
    ),
    "noise where none is": (
        (D, X, X, 1, X[:1]),
        {"eta": 0.0},
        ValueError,
        "noise must have shape (2, 3, 4) to fit x_t, got (1, 3, 4)",
    ),
    "t above": ((D, X, X, 51, NO), {}, ValueError, "t must lie in 0..50, got values from 51 to 51"),
    "in place of what wants a gradient": (
        (D, X.clone().requires_grad_(), X, 1, NO),
        {"in_place": True},
        ValueError,
        "in_place=True would overwrite an x_t that requires a gradient",
    ),
    "in place of what has no memory of its own": (
        (D, X[:1].expand(2, 3, 4), X, 1, NO),
        {"in_place": True},
        ValueError,
        "in_place=True needs a tensor with memory of its own for each element, got one whose elements overlap",
    ),
    "in place of a lazy negation": (
        (D, CONJUGATE.imag, X, 1, NO),
        {"in_place": True},
        ValueError,
        "x_t is a lazy negation, which cannot be written to; pass x_t.resolve_neg()",
    ),
}
STEP = D.step_table([[1.0, 0.5, 0.25, 0.0]] * 51)
NOISY = D.step_table([[1.0, 0.5, 0.25]] * 51)
BAD_MULTISTEP = {
    "a schedule": ((D, X, X, [X], 1, None), {}, TypeError, "table must be a StepTable, got DeviceSchedule"),
    "a table elsewhere": (
        (D.to("meta").step_table([[1.0, 0.0, 0.0]] * 51), X, X, [], 1, None),
        {},
        ValueError,
        "table is on meta, x_t on cpu; both must be on one device",
    ),
    "t above": ((STEP, X, X, [X], 51, None), {}, ValueError, "t must lie in 0..50, got values from 51 to 51"),
    "t above in a tensor": (
        (STEP, X, X, [X], torch.tensor([1, 51]), None),
        {},
        ValueError,
        "t must lie in 0..50, got values from 1 to 51",
    ),
    "no history": (
        (STEP, X, X, [], 1, None),
        {},
        ValueError,
        "history must be a sequence of 1 tensors, as the table has it, got 0",
    ),
    "a tensor for the history": (
        (STEP, X, X, X, 1, None),
        {},
        ValueError,
        "history must be a sequence of 1 tensors, as the table has it, got Tensor",
    ),
    "a history that broadcasts": (
        (STEP, X, X, [X[:1]], 1, None),
        {},
        ValueError,
        "history[0] must have shape (2, 3, 4) to fit x_t, got (1, 3, 4)",
    ),
    "two outputs without guidance": (
        (STEP, X, (X, X), [X], 1, None),
        {},
        TypeError,
        "output must be a tensor, got tuple",
    ),
    "noise missing": ((NOISY, X, X, [], 1, None), {}, ValueError, "this table adds noise; noise must not be None"),
    "temperature": (
        (NOISY, X, X, [], 1, NO),
        {"temperature": -1.0},
        ValueError,
        "temperature must be finite and lie in 0..inf, got -1.0",
    ),
    "keep of integers": ((STEP, X, X, [X], 1, None), {"keep": INT}, TypeError, "keep must be one of float32, float16"),
    "keep of another shape": (
        (STEP, X, X, [X], 1, None),
        {"keep": X[:1]},
        ValueError,
        "keep must have shape (2, 3, 4) to fit x_t, got (1, 3, 4)",
    ),
    "keep that wants a gradient": (
        (STEP, X, X, [X], 1, None),
        {"keep": X.clone().requires_grad_()},
        ValueError,
        "keep requires a gradient, and this op gives none to it",
    ),
    "keep that has no memory of its own": (
        (STEP, X, X, [X], 1, None),
        {"keep": X[:1].clone().expand(2, 3, 4)},
        ValueError,
        "keep needs a tensor with memory of its own for each element, got one whose elements overlap",
    ),
    "in place of what wants a gradient": (
        (STEP, X.clone().requires_grad_(), X, [X], 1, None),
        {"in_place": True},
        ValueError,
        "in_place=True would overwrite an x_t that requires a gradient",
    ),
    "in place of a lazy negation": (
        (STEP, CONJUGATE.imag, X, [X], 1, None),
        {"in_place": True},
        ValueError,
        "x_t is a lazy negation, which cannot be written to; pass x_t.resolve_neg()",
    ),
    "keep that is a lazy negation": (
        (STEP, X, X, [X], 1, None),
        {"keep": CONJUGATE.imag},
        ValueError,
        "keep is a lazy negation, which cannot be written to; pass keep.resolve_neg()",
    ),
}
BAD_VLB_TERMS = {
    "x_0 uint8": ((D, X.to(torch.uint8), X, X, 1), {}, TypeError, "x_0 must be one of float32"),
    "x_0 of another shape": (
        (D, X[:1], X, X, 1),
        {},
        ValueError,
        "x_0 must have shape (2, 3, 4) to fit x_t, got (1, 3, 4)",
    ),
    "output without the variance": (
        (D, X, X, X, 1),
        {"variance": "learned_range"},
        ValueError,
        "output must have shape (2, 6, 4) to fit x_t, got (2, 3, 4)",
    ),
    "variance zero": (
        (D, X, X, X, 1),
        {"variance": "zero"},
        ValueError,
        "variance must be one of 'posterior', 'beta', 'learned_range', got 'zero'",
    ),
    "prediction": (
        (D, X, X, X, 1),
        {"prediction": 0},
        ValueError,
        "prediction must be one of 'eps', 'x_0', 'v', 'flow', got 0",
    ),
    "one level": ((D, X, X, X, 1), {"levels": 1}, ValueError, "levels must lie in [2, 4294967297), got 1"),
    "half a level": ((D, X, X, X, 1), {"levels": 2.5}, TypeError, "levels must be an int, got 2.5"),
    "clip": ((D, X, X, X, 1), {"clip": (0, 0)}, ValueError, "clip must be (low, high) with low < high, or None"),
    "t above": ((D, X, X, X, 51), {}, ValueError, "t must lie in 0..50, got values from 51 to 51"),
}
BAD_FIXED_SUM = {
    "float16": ((torch.ones(2, 3).half(),), {}, TypeError, "values must be one of float32, float64, got float16"),
    "a list": (([1.0],), {}, TypeError, "values must be a tensor, got list"),
    "rank 3": ((X,), {}, ValueError, "values must have shape (B, n), got (2, 3, 4)"),
}
BAD_ADVANCE = {
    "counter 3": ((3,), {}, TypeError, "counter must be an int64 tensor, got int"),
    "counter int32": ((X.int(),), {}, TypeError, "counter must be an int64 tensor, got torch.int32"),
    "two counters": ((torch.tensor([1, 2]),), {}, ValueError, "counter must have one element, got shape (2,)"),
    "by 1.0": ((torch.tensor(1), 1.0), {}, TypeError, "by must be an int, got 1.0"),
    "by 2^31": ((torch.tensor(1), 2**31), {}, ValueError, "by must lie in [-2147483648, 2147483648), got 2147483648"),
}
BAD_NOISE = {
    "no batch": ((NO, ()), {}, ValueError, "shape must be (B, ...), got no axis"),
    "a number": ((NO, 5), {}, TypeError, "shape must be a sequence of int, got 5"),
    "of floats": ((NO, (2, 1.5)), {}, TypeError, "a size of shape must be an int, got 1.5"),
}
TABLES = [
    (q_sample, BAD_Q_SAMPLE),
    (simple_loss, BAD_SIMPLE_LOSS),
    (reverse_step, BAD_REVERSE_STEP),
    (multistep, BAD_MULTISTEP),
    (vlb_terms, BAD_VLB_TERMS),
    (pairwise_sum, BAD_FIXED_SUM),
    (advance, BAD_ADVANCE),
    (noise, BAD_NOISE),
]
BAD = {f"{op.__name__}: {name}": (op, *call) for op, table in TABLES for name, call in table.items()}


@pytest.mark.parametrize(("op", "arguments", "options", "error", "message"), BAD.values(), ids=BAD)
def test_a_bad_call_says_what_is_wrong_with_it(op, arguments, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        op(*arguments, **options)


def test_a_device_schedule_wants_a_schedule():
    with pytest.raises(TypeError, match=re.escape("schedule must be a noisestep.reference Schedule, got list")):
        DeviceSchedule([0.1, 0.2])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"prediction": "mu"}, "prediction must be one of"), ({"variance": "typo"}, "variance must be one of")],
)
def test_a_reverse_table_refuses_what_it_does_not_know(options, message):
    with pytest.raises(ValueError, match=message):
        D.reverse_table(**options)


def test_a_device_schedule_moves():
    assert D.to("cpu") is D
    moved = D.to("meta")
    assert moved.schedule is D.schedule
    assert moved.timesteps.device.type == moved.forward_table().device.type == "meta"
    assert repr(moved) == f"DeviceSchedule({D.schedule!r}, device='meta')"
    assert DeviceSchedule(Schedule.from_name("linear", 50).respace(5)).timesteps.tolist() == [0, 10, 20, 30, 40, 50]
