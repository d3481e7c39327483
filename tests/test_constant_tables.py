"""Tables are ordinary tensors whatever mode they are made in, seen to change when their source does, and few."""

import contextlib

import pytest
import torch
from noisestep.accelerated import schedule as module
from noisestep.accelerated.address import FORWARD, REVERSE, NoiseAddress
from noisestep.accelerated.integrations.improved_diffusion import SpacedDiffusion
from noisestep.accelerated.ops import multistep, q_sample, reverse_step
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.reference import Schedule
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

LINEAR = Schedule.from_name("linear", 20)
X = torch.linspace(-1, 1, 12).reshape(2, 6)
T = torch.tensor([3, 4])


def within_context(context):
    def run(make):
        with context():
            return make()

    return run


def within_function(transform):
    def run(make):
        made = []

        def function(x):
            made.append(make())
            return (x * 2).sum()

        transform(function)
        return made[-1]

    return run


class Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


MODES = {
    "none": within_context(contextlib.nullcontext),
    "no_grad": within_context(torch.no_grad),
    "inference_mode": within_context(torch.inference_mode),
    "FakeTensorMode": within_context(lambda: FakeTensorMode(allow_non_fake_inputs=True)),
    "torch.device": within_context(lambda: torch.device("meta")),
    "grad": within_function(lambda f: torch.func.grad(f)(X)),
    "vmap": within_function(lambda f: torch.vmap(f)(X)),
    "jvp": within_function(lambda f: torch.func.jvp(f, (X,), (X,))),
    "functionalize": within_function(lambda f: torch.func.functionalize(f)(X)),
    "make_fx": within_function(lambda f: make_fx(f, tracing_mode="fake", _allow_non_fake_inputs=True)(X)),
    "export": within_function(lambda f: torch.export.export(Module(f), (X,))),
}


def noised_with_gradient(schedule):
    x_0 = X.clone().requires_grad_()
    x_t = q_sample(schedule, x_0, T, NoiseAddress(0, FORWARD, 0))
    (gradient,) = torch.autograd.grad(x_t.sum(), x_0)
    return x_t.detach(), gradient


def stepped(schedule):
    return reverse_step(schedule, X, X / 2, T, NoiseAddress(0, REVERSE, 5), clip=(-1, 1))


@pytest.mark.parametrize("mode", MODES)
def test_tables_that_were_made_in_a_mode_are_those_made_without(mode):
    fresh = DeviceSchedule(LINEAR)
    expected = *noised_with_gradient(fresh), stepped(fresh)
    made_within = MODES[mode](lambda: DeviceSchedule(LINEAR))
    asked_within = DeviceSchedule(LINEAR)
    table = MODES[mode](lambda: asked_within.reverse_table(variance="beta"))
    assert asked_within.reverse_table(variance="beta") is table
    for schedule in (made_within, asked_within):
        for tensor in (schedule.forward_table(), schedule.timesteps, schedule.reverse_table(), table):
            assert type(tensor) is torch.Tensor
            assert not tensor.is_inference()
            assert tensor.is_cpu
        assert all(map(torch.equal, (*noised_with_gradient(schedule), stepped(schedule)), expected))


def test_a_step_is_the_same_after_it_was_exported():
    schedule = DeviceSchedule(LINEAR)
    program = torch.export.export(Module(lambda x: reverse_step(schedule, x, x, 5, NoiseAddress(0, REVERSE, 5))), (X,))
    expected = reverse_step(DeviceSchedule(LINEAR), X, X, 5, NoiseAddress(0, REVERSE, 5))
    assert torch.equal(reverse_step(schedule, X, X, 5, NoiseAddress(0, REVERSE, 5)), expected)
    assert torch.equal(program.module()(X), expected)


def test_the_tables_of_updates_are_bounded_in_number():
    schedule = DeviceSchedule(LINEAR)
    first = schedule.reverse_table(eta=0.0)
    assert schedule.reverse_table(eta=0.0) is first
    for k in range(1, 3 * module.KEPT_TABLES):
        schedule.reverse_table(eta=k / 1000)
    assert len(vars(schedule._reverse)) == module.KEPT_TABLES
    assert schedule.reverse_table(eta=0.0) is not first
    assert torch.equal(schedule.reverse_table(eta=0.0), first)


def many_tables(first, second, steps, x, eta):
    """Tables of every kind, two and more of each."""
    for schedule in (first, second):
        for x_0 in (x, x.double()):
            x = x + q_sample(schedule, x_0, T, x_0)
        for options in ({"variance": "beta"}, {"variance": "posterior"}, {"prediction": "v"}, {"eta": eta}):
            x = reverse_step(schedule, x, x / 2, 5, x, **options)
        x = reverse_step(schedule, x.double(), x.double(), 5, x.double(), eta=eta / 2).float()
    for table in steps:
        x = multistep(table, x, x / 2, (x,), 5, x)
    return x


def test_a_function_of_many_tables_is_compiled_once(monkeypatch):
    monkeypatch.setattr(module, "KEPT_TABLES", 3)  # in vain: no table is dropped while a function is compiled
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(many_tables, backend=counter, fullgraph=True)
    rows = torch.linspace(0, 1, 21 * 4).reshape(21, 4).numpy()

    def arguments(eta=0.5):
        first, second = DeviceSchedule(LINEAR), DeviceSchedule(Schedule.from_name("cosine", 10))
        return first, second, [first.step_table(rows * k) for k in (1, 2)], X, eta

    fresh = arguments()
    assert torch.equal(compiled(*fresh), many_tables(*arguments()))
    assert torch.equal(compiled(*fresh), many_tables(*arguments()))
    assert counter.frame_count == 1
    # of tables that are there, or of others; a number eta is part of a graph
    monkeypatch.undo()
    used = arguments()
    many_tables(*used)
    assert torch.equal(compiled(*used), many_tables(*used))
    assert counter.frame_count == 1
    assert torch.equal(compiled(*arguments(0.25)), many_tables(*arguments(0.25)))


def test_the_numbers_of_a_call_make_no_table():
    schedule = DeviceSchedule(LINEAR)
    for k in range(1, 4):
        numbers = dict(clip=(-k, k), guidance=float(k), temperature=k / 4)
        reverse_step(schedule, X, (X, X / 2), T, NoiseAddress(0, REVERSE, 5), **numbers)
    assert len(vars(schedule._reverse)) == 1


def test_the_source_of_the_tables_cannot_change():
    schedule = DeviceSchedule(LINEAR, previous=[0, *range(19)])
    for name in ("schedule", "previous"):
        with pytest.raises(AttributeError):
            setattr(schedule, name, getattr(schedule, name))
    with pytest.raises(ValueError, match="read-only"):
        schedule.previous[3] = 0


def respaced(T=20):
    return SpacedDiffusion(
        use_timesteps=range(0, T, 2),
        betas=Schedule.from_name("linear", T).beta[1:],
        model_mean_type="EPSILON",
        model_var_type="FIXED_LARGE",
        loss_type="MSE",
    )


def model(x, t):
    return x * t[:, None] / 20


def noised_and_stepped(diffusion):
    """What reads tables of every sort, from tensors that are made here."""
    x, t = torch.linspace(-1, 1, 12, device="cpu").reshape(2, 6), torch.tensor([3, 4], device="cpu")
    moments = diffusion.q_mean_variance(x, t)
    with torch.enable_grad():
        sample = diffusion.p_sample(model, x, t, noise=torch.ones_like(x))["sample"]
    return *moments, sample


@pytest.mark.parametrize("mode", MODES)
def test_a_process_used_first_in_a_mode_is_as_good_after_it(mode):
    expected = noised_and_stepped(respaced())
    diffusion = respaced()
    MODES[mode](lambda: noised_and_stepped(diffusion))
    assert all(map(torch.equal, noised_and_stepped(diffusion), expected))
    tables = list(diffusion._on.values())
    assert all(type(table) is torch.Tensor and not table.is_inference() for table in tables)


def test_a_process_used_first_by_a_compiled_function_is_compiled_whole():
    compiled = torch.compile(noised_and_stepped, fullgraph=True, backend="aot_eager")
    for diffusion in (respaced(20), respaced(10)):
        assert all(map(torch.equal, compiled(diffusion), noised_and_stepped(diffusion)))
