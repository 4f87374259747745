"""Optimizers against plain loops in float64, and against torch where it is installed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import fusedrnn
from fusedrnn.models import optimizers, schedules
from fusedrnn.models.optimizers import SGD, Adam, AdamW, RMSprop, clip_by_norm, global_norm
from training_problems import raises

SHAPES = {"a": (3, 4), "b": (7,), "c": (1, 1, 1), "none": (0, 3)}

# Each kind, its settings, and how p, m and v change: numbers, as the class's docstring has it.


def sgd(p, g, m, v, t, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    g = g + weight_decay * p
    m = momentum * m + g
    return p - lr * (g + momentum * m if nesterov else m), m, v


def adam(p, g, m, v, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    b_1, b_2 = betas
    m = b_1 * m + (1 - b_1) * g
    v = b_2 * v + (1 - b_2) * g**2
    unbiased_m, unbiased_v = m / (1 - b_1**t), v / (1 - b_2**t)
    return p - lr * weight_decay * p - lr * unbiased_m / (math.sqrt(unbiased_v) + eps), m, v


def rmsprop(p, g, m, v, t, lr, alpha=0.99, eps=1e-8):
    v = alpha * v + (1 - alpha) * g**2
    return p - lr * g / (math.sqrt(v) + eps), m, v


CASES = [
    (SGD, sgd, {"learning_rate": 0.1}),
    (SGD, sgd, {"learning_rate": 0.1, "weight_decay": 0.2}),
    (SGD, sgd, {"learning_rate": 0.1, "momentum": 0.9}),
    (SGD, sgd, {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.2}),
    (Adam, adam, {"learning_rate": 0.01}),
    (Adam, adam, {"learning_rate": 0.02, "betas": (0.5, 0.8), "eps": 0.1}),
    (AdamW, adam, {"learning_rate": 0.01, "weight_decay": 0.3}),
    (AdamW, adam, {"learning_rate": 0.02, "betas": (0.0, 0.9), "weight_decay": 0.0}),
    (RMSprop, rmsprop, {"learning_rate": 0.01}),
    (RMSprop, rmsprop, {"learning_rate": 0.02, "alpha": 0.5, "eps": 0.1}),
]
KINDS = [(SGD, {"learning_rate": 0.1, "momentum": 0.9}), (Adam, {}), (AdamW, {}), (RMSprop, {})]
STEPS = 12


class Parameters:
    """A model that is nothing but parameters; they are read-only, as a layer's."""

    def __init__(self, dtype="float64", seed=0):
        self.load_parameters(draw(seed, dtype))

    def load_parameters(self, parameters):
        self.parameters = {name: np.array(a) for name, a in parameters.items()}
        for a in self.parameters.values():
            a.flags.writeable = False


def draw(seed, dtype="float64"):
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


def assert_same(got, want):
    for name in SHAPES:
        np.testing.assert_array_equal(got[name], want[name])


# Against plain loops


@pytest.mark.parametrize(("kind", "plain", "settings"), CASES)
@pytest.mark.parametrize("block", [1, 4, 32768])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 2e-5)])
def test_steps_are_those_of_a_plain_loop(
    kind, plain, settings, block, dtype, tolerance, monkeypatch
):
    # float32: a dozen steps with some ten roundings of 6e-8 each, relative to sums of about 1.
    monkeypatch.setattr(optimizers, "BLOCK", block)
    model = Parameters(dtype)
    want = {name: p.astype(float).ravel().tolist() for name, p in model.parameters.items()}
    kept = {name: [(0.0, 0.0)] * len(p) for name, p in want.items()}
    optimizer = kind(model, **settings)
    rest = {name: value for name, value in settings.items() if name != "learning_rate"}
    for t in range(1, STEPS + 1):
        gradients = draw(t, dtype)
        rate = settings["learning_rate"] * (0.5 if t % 3 == 0 else 1.0)
        optimizer.step(gradients, None if t % 3 else rate)
        for name, p in want.items():
            for k, g in enumerate(gradients[name].astype(float).ravel().tolist()):
                p[k], *both = plain(p[k], g, *kept[name][k], t, rate, **rest)
                kept[name][k] = tuple(both)
    assert optimizer.steps == STEPS
    for name, p in model.parameters.items():
        assert p.dtype == dtype
        np.testing.assert_allclose(p.ravel(), want[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize(("kind", "plain", "settings"), CASES)
def test_steps_are_those_of_torch(torch, kind, plain, settings):
    model = Parameters()
    tensors = {
        name: torch.nn.Parameter(torch.tensor(p))
        for name, p in model.parameters.items()
        if p.size > 0
    }
    rest = {name: value for name, value in settings.items() if name != "learning_rate"}
    theirs = getattr(torch.optim, kind.__name__)(
        tensors.values(), lr=settings["learning_rate"], **rest
    )
    ours = kind(model, **settings)
    for t in range(STEPS):
        gradients = draw(t)
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(gradients[name])
        theirs.step()
        ours.step(gradients)
    for name, tensor in tensors.items():
        want = tensor.detach().numpy()
        np.testing.assert_allclose(model.parameters[name], want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_a_layer_is_trained(kind, settings, dtype):
    layer = fusedrnn.LSTM(3, 8, 2, dtype=dtype, seed=0)
    optimizer = kind(layer, **{"learning_rate": 0.01, **settings})
    x = np.random.default_rng(0).normal(size=(6, 4, 3)).astype(dtype)

    def loss_and_gradients():
        y, _, tape = layer.forward(x)
        error = y - 0.3
        return float((error**2).mean()), layer.backward(tape, 2 * error / error.size).parameters

    first, _ = loss_and_gradients()
    for _ in range(60):
        optimizer.step(loss_and_gradients()[1])
    assert loss_and_gradients()[0] < first / 2
    assert not layer.parameters["weight_ih_l0"].flags.writeable


# What an optimizer keeps


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_state_goes_on_in_another_optimizer(kind, settings):
    one, other = Parameters(), Parameters()
    first, second = kind(one, **settings), kind(other, **settings)
    for t in range(3):
        first.step(draw(t))
    state = first.state_dict()
    second.load_state_dict(state)
    other.load_parameters(one.parameters)
    first.step(draw(3))  # which must not change what `state_dict` has returned
    second.step(draw(3))
    assert second.steps == first.steps == 4
    assert_same(other.parameters, one.parameters)
    second.load_state_dict(state)
    assert second.steps == 3


def test_state_holds_arrays_by_name():
    state = Adam(Parameters("float32")).state_dict()
    assert list(state) == ["steps", "m", "v"]
    assert {name: (a.shape, a.dtype.name, a.any()) for name, a in state["v"].items()} == {
        name: (shape, "float32", False) for name, shape in SHAPES.items()
    }
    assert list(SGD(Parameters(), 0.1).state_dict()) == ["steps"]
    assert list(SGD(Parameters(), 0.1, momentum=0.5).state_dict()) == ["steps", "m"]


def test_state_of_another_optimizer_is_refused():
    optimizer = Adam(Parameters())
    good = optimizer.state_dict()
    wrong = {**good, "v": {**good["v"], "b": np.zeros(6)}}
    with raises(ValueError, "state['v']['b']: expected float64 (7,), got float64 (6,)"):
        optimizer.load_state_dict({**wrong, "steps": 5})
    with raises(ValueError, "state['m']['a']: expected float64 (3, 4), got float32 (3, 4)"):
        optimizer.load_state_dict({**good, "m": Adam(Parameters("float32")).state_dict()["m"]})
    with raises(ValueError, "state: missing m, v; unexpected n"):
        optimizer.load_state_dict({"steps": 5, "n": {}})
    with raises(ValueError, "state['m']: missing a, b, c, none"):
        optimizer.load_state_dict({**good, "m": {}})
    assert optimizer.steps == 0


def test_configuration_and_repr_hold_all_settings():
    model = Parameters()
    made = [kind(model, **settings) for kind, _, settings in CASES]
    assert json.loads(json.dumps(made[3].configuration)) == {
        "optimizer": "SGD",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 0.2,
    }
    assert repr(made[6]) == (
        "AdamW(learning_rate=0.01, betas=[0.9, 0.999], eps=1e-08, weight_decay=0.3)"
    )
    assert len({json.dumps(optimizer.configuration) for optimizer in made}) == len(made)


# Arguments


def test_gradients_are_checked_and_not_changed():
    model = Parameters()
    before = model.parameters
    optimizer = Adam(model)
    with raises(ValueError, "gradients: missing b; unexpected d"):
        optimizer.step({"d" if name == "b" else name: g for name, g in draw(1).items()})
    with raises(ValueError, "gradients['a']: expected (3, 4), got (4, 3)"):
        optimizer.step({**draw(1), "a": np.zeros((4, 3))})
    with raises(ValueError, "learning_rate: expected a number in [0, inf), got -1"):
        optimizer.step(draw(1), -1)
    assert optimizer.steps == 0
    assert model.parameters is before
    gradients = draw(1)
    for kind, settings in KINDS:
        kind(Parameters(), **settings).step(gradients)
    assert_same(gradients, draw(1))


def test_any_gradient_of_the_right_shape_will_do():
    """Strided, of another dtype, read-only."""
    one, other = Parameters("float32"), Parameters("float32")
    wide = np.zeros((4, 6))
    wide[:, ::2] = draw(1)["a"].T
    wide.flags.writeable = False
    AdamW(one).step({**draw(1), "a": wide[:, ::2].T})
    AdamW(other).step(draw(1, "float32"))
    assert_same(one.parameters, other.parameters)


def test_settings_are_checked():
    model = Parameters()
    for settings, message in (
        ({"learning_rate": -0.1}, "learning_rate: expected a number in [0, inf), got -0.1"),
        ({"learning_rate": math.nan}, "learning_rate: expected a number in [0, inf), got nan"),
        ({"learning_rate": math.inf}, "learning_rate: expected a number in [0, inf), got inf"),
        ({"momentum": 1.0}, "momentum: expected a number in [0, 1), got 1.0"),
        ({"weight_decay": -1}, "weight_decay: expected a number in [0, inf), got -1"),
        ({"nesterov": True}, "momentum: expected a number above 0 with nesterov, got 0"),
    ):
        with raises(ValueError, message):
            SGD(model, **{"learning_rate": 0.1, **settings})
    with raises(ValueError, "betas[1]: expected a number in [0, 1), got 1"):
        Adam(model, betas=(0.9, 1))
    with raises(ValueError, "betas: expected two numbers, got 3"):
        Adam(model, betas=(0.9, 0.9, 0.9))
    with raises(ValueError, "eps: expected a number in (0, inf), got 0"):
        Adam(model, eps=0)
    with raises(ValueError, "alpha: expected a number in [0, 1), got 2"):
        RMSprop(model, alpha=2)
    with raises(TypeError, "learning_rate: expected a number in [0, inf), got str"):
        Adam(model, "0.1")
    with raises(TypeError, "nesterov: expected a bool, got int"):
        SGD(model, 0.1, 0.9, nesterov=1)


@pytest.mark.parametrize(
    ("optimizer", "size"),
    [
        (lambda model: SGD(model, 1e38), 1e5),
        (Adam, 1e30),  # its square
        (AdamW, 1e30),
        (RMSprop, 1e30),
    ],
)
def test_overflow_names_the_parameter_and_leaves_the_model(optimizer, size):
    model = Parameters("float32")
    before = model.parameters
    gradients = draw(1, "float32")
    gradients["b"][3] = size
    with pytest.raises(FloatingPointError, match=r"^b: overflow"):
        optimizer(model).step(gradients)
    assert model.parameters is before


# The norm


def test_clipping_keeps_the_direction():
    gradients = draw(0)
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    assert global_norm(gradients) == pytest.approx(norm, rel=1e-15)
    assert clip_by_norm(gradients, norm * 1.01) == pytest.approx(norm, rel=1e-15)
    assert_same(gradients, draw(0))
    assert clip_by_norm(gradients, 0.25) == pytest.approx(norm, rel=1e-15)
    for name, g in draw(0).items():
        np.testing.assert_allclose(gradients[name], g * (0.25 / norm), rtol=1e-14)
    assert global_norm(gradients) == pytest.approx(0.25, rel=1e-14)


def test_norm_of_nothing_is_zero():
    assert global_norm({}) == 0.0
    assert clip_by_norm({"a": np.zeros((0, 3)), "b": np.zeros(2)}, 1.0) == 0.0


def test_norm_of_large_numbers_does_not_overflow():
    gradients = {"a": np.full(3, 3e38, np.float32), "b": np.array([4e38 / 3], np.float32)}
    assert clip_by_norm(gradients, 1.0) == pytest.approx(3e38 * math.sqrt(3 + (4 / 9) ** 2))
    assert global_norm(gradients) == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm", [global_norm, lambda gradients: clip_by_norm(gradients, 1.0)])
def test_norm_that_is_not_finite_names_the_gradient(norm, bad):
    gradients = draw(0)
    gradients["b"][2] = bad
    before = {name: g.copy() for name, g in gradients.items()}
    value = "nan" if math.isnan(bad) else "inf"
    with raises(FloatingPointError, f"gradient of b: expected finite numbers, got {value}"):
        norm(gradients)
    assert_same(gradients, before)


def test_norm_past_float64():
    with raises(FloatingPointError, "gradients: expected a finite norm, got inf"):
        global_norm({"a": np.full(4, 1.7e308)})


def test_the_limit_is_checked():
    with raises(ValueError, "limit: expected a number in (0, inf), got 0"):
        clip_by_norm(draw(0), 0)


# Schedules


@pytest.mark.parametrize(
    ("schedule", "want"),
    [
        (schedules.constant(), [1, 1, 1, 1, 1]),
        (schedules.linear(0.2), [1, 0.8, 0.6, 0.4, 0.2]),
        (schedules.cosine(0.2), [1, 0.6 + 0.4 * 0.5**0.5, 0.6, 0.6 - 0.4 * 0.5**0.5, 0.2]),
        (schedules.exponential(0.0625), [1, 0.5, 0.25, 0.125, 0.0625]),
        (schedules.step_decay((0.25, 0.6), 0.5), [1, 0.5, 0.5, 0.25, 0.25]),
        (schedules.warmup(0.5, schedules.linear(), 0.2), [0.2, 0.6, 1, 0.5, 0]),
        (schedules.warmup(0.0, schedules.linear()), [1, 0.75, 0.5, 0.25, 0]),
        (schedules.warmup_cosine(0.25, 0.1, 0.4), [0.1, 1, 0.85, 0.55, 0.4]),
    ],
)
def test_schedules(schedule, want):
    np.testing.assert_allclose([schedule(k / 4) for k in range(5)], want, rtol=0, atol=1e-15)


def test_settings_of_schedules_are_checked():
    with raises(ValueError, "end: expected a number in [0, inf), got -1"):
        schedules.linear(-1)
    with raises(ValueError, "end: expected a number in (0, inf), got 0"):
        schedules.exponential(0)
    with raises(ValueError, "at[1]: expected a number in [0, 1], got 2"):
        schedules.step_decay((0.5, 2))
    with raises(ValueError, "part: expected a number in [0, 1), got 1.0"):
        schedules.warmup(1.0, schedules.constant())
