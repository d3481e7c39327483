"""Denoising diffusion in NumPy, float64, written like the equations.

An image is turned into noise in T small steps. A network learns to undo one step. Undoing all of them, from pure noise
on, makes a new image. Everything here is a small function over arrays: no class to derive from, no hidden state, no
random numbers but those that an argument or an address gives.

Order of reading
----------------
Each module begins with what it is for; ``docs/equations.md`` has the same order.

1. :mod:`.betas`, :mod:`.schedule`: how much noise there is at each step, as tables over t.
2. :mod:`.forward`: from an image to noise, in steps or in one jump.
3. :mod:`.posterior`: the step back, if the image were known.
4. :mod:`.prediction`: what the network guesses, and how one guess gives the others.
5. :mod:`.loss`: L_simple, which training minimises.
6. :mod:`.reverse`: the step back with the network's guess; DDIM; guidance.
7. :mod:`.samplers`: the loop over all steps, from noise to an image, in ``samplers/loop.py``, and one sampler a file;
   editing in ``samplers/editing.py``. :mod:`.guidance`: more ways to guide it. :mod:`.multistep`: the sum that a step
   of nearly all of them is. :mod:`.grids`: which steps to take in place of all.
8. :mod:`.network`, :mod:`.optimizer`, :mod:`.training`: all of it at work on real digits
   (``docs/training-by-hand.md``).
9. :mod:`.bound`: the variational bound, and with ``docs/derivation.md`` the reason for L_simple. :mod:`.likelihood`:
   the bound from a sample of its terms, and the exact likelihood by the probability-flow ODE.
10. :mod:`.jumps`: updates that cross several steps. :mod:`.flow`: flow matching, on the same noise levels.
    :mod:`.noise`: random numbers with an address.

Conventions
-----------
These hold for every function, whose docstring tells only what is its own. B is the number of samples in a batch and
``...`` the shape of one sample, such as (channels, height, width).

schedule : Schedule
    The tables beta_t, alpha_bar_t, .. of T steps. Every table has T + 1 rows; row 0 is clean data.
T : int
    Number of steps, at least 1.
t : int, or array_like of int of shape (B,)
    The step, in 1..T: one for all samples, or one for each. t = 0 is clean data, and is allowed only where said.
x_0 : array_like, shape (B, ...), floating
    Clean data; images in [-1, 1].
x_t : array_like, shape (B, ...), floating
    The same with the noise of t steps.
eps, z : array_like, shape (B, ...), floating
    Standard normal noise: what is mixed into x_0, and what a reverse step adds. For eps also a network's guess of it.
v : array_like, shape (B, ...), floating
    The velocity, sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0.
flow : array_like, shape (B, ...), floating
    The velocity of a flow, eps - x_0.
output : array_like, shape (B, ...), floating
    What the network returned for x_t.
prediction : {"eps", "x_0", "v", "flow", "mu"}
    What the output is a guess of; mu is the mean of x_{t-1}.
clip : (low, high), optional
    Range that the predicted x_0 is clipped to, such as (-1, 1); left out, nothing is clipped.
variance : {"beta", "posterior", "zero"} or array_like
    sigma_t^2 of a reverse step: beta_t, beta~_t, none, or at least 0 as a number, of shape (B,), or of x_t's shape.
eta : float
    How much fresh noise DDIM adds, in [0, 1]: none at 0, the posterior's at 1.
model : callable
    ``model(x_t, t)``, with x_t of shape (B, ...), float64, and t of shape (B,), int64: the numbers of the steps that
    the network was trained on, ``schedule.timesteps[t]``. It returns an array of x_t's shape.
seed, stream, step, sample
    The address of a random number (:mod:`.noise`): an int in [0, 2^64) for the whole experiment; what the number is
    for, in [0, 16); the timestep or the optimizer step, in [0, 2^28); the number of the image, in [0, 2^64).
numbers : int, or array_like of int of shape (B,)
    ``sample`` of each image of a batch; one number is that of the first, and the others count on from it.

Results are new float64 arrays of the shape of the data, (B, ...), unless a function says otherwise; arguments are never
changed. All arithmetic is in float64, whatever floating type comes in. Integers may be of any type, NumPy's too.

Errors come before any work and say what was passed and what is allowed. A TypeError is a wrong kind of value: integers
where floating data belong (an 8-bit image is not in [-1, 1]), or 1.0 for a step. A ValueError is a number out of
its range, an unknown name, or shapes that disagree: shapes must be equal, since noise that broadcast would repeat.

``import noisestep.reference as ref`` has all public functions and classes but four groups: the pieces that the noise
is made of stay in :mod:`.noise`, the grids in :mod:`.grids`, each sampler in its file of :mod:`.samplers`, and
:mod:`.training` is also the command ``python -m noisestep.reference.training``.
"""

from .betas import (
    BETA_SCHEDULES,
    beta_schedule,
    constant_beta,
    cosine_beta,
    flow_beta,
    jsd_beta,
    linear_beta,
    quadratic_beta,
    scaled_linear_beta,
    sigmoid_beta,
    warmup10_beta,
    warmup50_beta,
    warmup_beta,
    zero_terminal_snr_beta,
)
from .bound import (
    Bound,
    bits_per_dimension,
    discretised_normal_log_likelihood,
    normal_kl,
    prior_kl,
    variational_bound,
    vlb_terms,
)
from .digits import load_digits
from .flow import flow_path, flow_schedule, flow_step, flow_velocity, x_0_from_velocity, x_t_from_flow
from .forward import q_mean_variance, q_sample, q_step, q_step_mean_variance
from .grids import GRIDS
from .guidance import classifier_coefficients, classifier_mean, classifier_output, guided_steps, rescaled
from .jumps import Jumps
from .likelihood import (
    SampledBound,
    dequantisation_entropy,
    dequantise,
    likelihood_grid,
    ode_bits,
    ode_log_density,
    rademacher,
    sampled_bound,
)
from .loss import (
    LOSS_WEIGHTINGS,
    loss_weights,
    min_snr_weights,
    p2_weights,
    simple_loss,
    squared_error,
    training_target,
    truncated_snr_weights,
    uniform_weights,
)
from .multistep import linear_step, prediction_coefficients, step_prediction
from .network import Activations, SimpleUNet, initial_parameters, parameter_shapes, timestep_embedding
from .noise import (
    AUGMENTATION,
    DEQUANTISATION,
    DROPOUT,
    FORWARD,
    INITIAL,
    INITIAL_WEIGHTS,
    INPAINTING,
    LABEL_DROPOUT,
    NOISE_VERSION,
    PERMUTATION,
    PROBE,
    REVERSE,
    TIMESTEP,
    integers,
    normal,
    normal_pair,
    permutation,
    philox4x32,
    uniform,
    words,
)
from .optimizer import Adam, ema
from .picture import image_grid, write_png
from .posterior import posterior_mean, posterior_mean_variance, posterior_sample
from .prediction import (
    convert,
    eps_from_flow,
    eps_from_mu,
    eps_from_v,
    eps_from_x_0,
    mu_from_eps,
    predict_x_0,
    velocity,
    x_0_from_eps,
    x_0_from_flow,
    x_0_from_mu,
    x_0_from_v,
)
from .reverse import (
    ddim_direction,
    ddim_sigma,
    ddim_step,
    guided,
    learned_range_variance,
    reverse_coefficients,
    reverse_mean,
    reverse_step,
    reverse_variance,
)
from .samplers.editing import image_to_image, inpaint, repaint_walk, slerp, start_step, x_T_between
from .samplers.loop import sample
from .schedule import Schedule

__all__ = [
    "AUGMENTATION",
    "BETA_SCHEDULES",
    "DEQUANTISATION",
    "DROPOUT",
    "FORWARD",
    "GRIDS",
    "INITIAL",
    "INITIAL_WEIGHTS",
    "INPAINTING",
    "LABEL_DROPOUT",
    "LOSS_WEIGHTINGS",
    "NOISE_VERSION",
    "PERMUTATION",
    "PROBE",
    "REVERSE",
    "TIMESTEP",
    "Activations",
    "Adam",
    "Bound",
    "Jumps",
    "SampledBound",
    "Schedule",
    "SimpleUNet",
    "beta_schedule",
    "bits_per_dimension",
    "classifier_coefficients",
    "classifier_mean",
    "classifier_output",
    "constant_beta",
    "convert",
    "cosine_beta",
    "ddim_direction",
    "ddim_sigma",
    "ddim_step",
    "dequantisation_entropy",
    "dequantise",
    "discretised_normal_log_likelihood",
    "ema",
    "eps_from_flow",
    "eps_from_mu",
    "eps_from_v",
    "eps_from_x_0",
    "flow_beta",
    "flow_path",
    "flow_schedule",
    "flow_step",
    "flow_velocity",
    "guided",
    "guided_steps",
    "image_grid",
    "image_to_image",
    "initial_parameters",
    "inpaint",
    "integers",
    "jsd_beta",
    "learned_range_variance",
    "likelihood_grid",
    "linear_beta",
    "linear_step",
    "load_digits",
    "loss_weights",
    "min_snr_weights",
    "mu_from_eps",
    "normal",
    "normal_kl",
    "normal_pair",
    "ode_bits",
    "ode_log_density",
    "p2_weights",
    "parameter_shapes",
    "permutation",
    "philox4x32",
    "posterior_mean",
    "posterior_mean_variance",
    "posterior_sample",
    "predict_x_0",
    "prediction_coefficients",
    "prior_kl",
    "q_mean_variance",
    "q_sample",
    "q_step",
    "q_step_mean_variance",
    "quadratic_beta",
    "rademacher",
    "repaint_walk",
    "rescaled",
    "reverse_coefficients",
    "reverse_mean",
    "reverse_step",
    "reverse_variance",
    "sample",
    "sampled_bound",
    "scaled_linear_beta",
    "sigmoid_beta",
    "simple_loss",
    "slerp",
    "squared_error",
    "start_step",
    "step_prediction",
    "timestep_embedding",
    "training_target",
    "truncated_snr_weights",
    "uniform",
    "uniform_weights",
    "variational_bound",
    "velocity",
    "vlb_terms",
    "warmup10_beta",
    "warmup50_beta",
    "warmup_beta",
    "words",
    "write_png",
    "x_0_from_eps",
    "x_0_from_flow",
    "x_0_from_mu",
    "x_0_from_v",
    "x_0_from_velocity",
    "x_T_between",
    "x_t_from_flow",
    "zero_terminal_snr_beta",
]
