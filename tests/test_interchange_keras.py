"""from_keras_weights and to_keras_weights: against Keras's formulas, its published values, and Keras itself."""

import numpy as np
import pytest
from conftest import KINDS, as_tuple, make_layer

import fastrnn

CELLS = {  # ours: the name to import it under, our own option, Keras's class, its own options
    "lstm": ("lstm", {}, "LSTM", {}),
    "gru": ("gru", {}, "GRU", {"reset_after": True}),
    "gru_reset_before": ("gru", {"reset_after": False}, "GRU", {"reset_after": False}),
    "rnn_tanh": ("rnn", {}, "SimpleRNN", {}),
    "rnn_relu": ("rnn", {"nonlinearity": "relu"}, "SimpleRNN", {"activation": "relu"}),
}
GATES = {"lstm": 4, "gru": 3, "gru_reset_before": 3, "rnn_tanh": 1, "rnn_relu": 1}
B, T, I, H = 3, 5, 4, 6

# Keras, of itself
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

every_cell = pytest.mark.parametrize("cell", CELLS)
biases = pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
directions = pytest.mark.parametrize("D", [1, 2], ids=["one", "both"])


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype("float32")


def keras_weights(cell, layers=1, D=1, bias=True, dtype="float32"):
    """For each layer random arrays of the shapes that Keras has."""
    rows = GATES[cell] * H
    weights = []
    for k in range(layers):
        arrays = []
        for d in range(D):
            arrays += [normal(D * H if k else I, rows, seed=10 * k + d), normal(H, rows, seed=10 * k + d + 2) / 2]
            if bias:
                arrays.append(normal(*((2, rows) if cell == "gru" else (rows,)), seed=10 * k + d + 4))
        weights.append([array.astype(dtype) for array in arrays])
    return weights


def imported(cell, weights, **options):
    name, own, _, _ = CELLS[cell]
    return fastrnn.from_keras_weights(name, *weights, **own, **options)


def assert_close(result, expected):
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * np.abs(expected).max(), strict=True)


# Keras's formulas


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(x, h, c, W, R, b):
    z_i, z_f, z_c, z_o = np.split(x @ W + h @ R + b, 4, axis=1)
    c = sigmoid(z_f) * c + sigmoid(z_i) * np.tanh(z_c)
    return sigmoid(z_o) * np.tanh(c), c


def gru_step(x, h, c, W, R, b):
    x_z, x_r, x_h = np.split(x @ W + b[0], 3, axis=1)
    h_z, h_r, h_h = np.split(h @ R + b[1], 3, axis=1)
    z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
    return z * h + (1 - z) * np.tanh(x_h + r * h_h), c


def gru_reset_before_step(x, h, c, W, R, b):
    x_z, x_r, x_h = np.split(x @ W + b, 3, axis=1)
    R_z, R_r, R_h = np.split(R, 3, axis=1)
    z, r = sigmoid(x_z + h @ R_z), sigmoid(x_r + h @ R_r)
    return z * h + (1 - z) * np.tanh(x_h + (r * h) @ R_h), c


def rnn_step(activation):
    return lambda x, h, c, W, R, b: (activation(x @ W + h @ R + b), c)


STEPS = {
    "lstm": lstm_step,
    "gru": gru_step,
    "gru_reset_before": gru_reset_before_step,
    "rnn_tanh": rnn_step(np.tanh),
    "rnn_relu": rnn_step(lambda x: np.maximum(x, 0)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@biases
@every_cell
def test_an_imported_layer_computes_keras_formulas(cell, bias, dtype):
    (arrays,) = weights = keras_weights(cell, bias=bias, dtype=dtype)
    W, R, b = arrays if bias else (*arrays, np.zeros((2, 1), dtype) if cell == "gru" else 0)
    x, h, c = (normal(*shape).astype(dtype) for shape in ((B, T, I), (1, B, H), (1, B, H)))
    layer = imported(cell, weights)
    y, state = layer(x, (h, c) if cell == "lstm" else h)
    h, c = h[0], c[0]
    for t in range(T):
        h, c = STEPS[cell](x[:, t], h, c, W, R, b)
        assert_close(y[:, t], h)
    for final, expected in zip(as_tuple(state), (h, c), strict=False):
        assert_close(final[0], expected)


# The values that Keras's own tests of these layers expect of kernels of 0.01, recurrent kernels of 0.02, biases of 0.03


def constant_weights(cell, I, H, bias):
    rows = GATES[cell] * H
    arrays = [np.full((I, rows), 0.01, "float32"), np.full((H, rows), 0.02, "float32")]
    if bias:
        arrays.append(np.full((2, rows) if cell == "gru" else rows, 0.03, "float32"))
    if bias == "forget":  # unit_forget_bias=True, the default
        arrays[2][H : 2 * H] = 1
    return arrays


PUBLISHED = [  # of the last step, equal in all units
    ("lstm", "forget", (3, 6, 4), 3, [0.6288687, 0.86899155, 0.9460773]),
    ("lstm", True, (3, 6, 4), 3, [0.57019705, 0.8661914, 0.9459622]),
    ("lstm", False, (3, 6, 4), 3, [0.54986924, 0.86226785, 0.9443936]),
    ("gru", True, (3, 6, 4), 3, [0.5217289, 0.6371659, 0.39384964]),
    ("gru", False, (3, 6, 4), 3, [0.49988455, 0.64701194, 0.4103359]),
    ("gru_reset_before", True, (3, 6, 4), 3, [0.51447755, 0.6426879, 0.40208298]),
    ("rnn_tanh", True, (2, 3, 4), 4, [0.405432, 0.73605347]),
]


@pytest.mark.parametrize(("cell", "bias", "shape", "units", "expected"), PUBLISHED)
def test_keras_published_values(cell, bias, shape, units, expected):
    layer = imported(cell, [constant_weights(cell, shape[2], units, bias)])
    y, _ = layer(np.arange(np.prod(shape), dtype="float32").reshape(shape))
    np.testing.assert_allclose(y[:, -1], np.array(expected)[:, None].repeat(units, 1), atol=1e-5)


PUBLISHED_WITH_STATE = [
    ("lstm", "forget", 2, [[0.20574439, 0.3558822], [0.64930826, 0.66276]]),
    ("gru", True, 2, [[0.23774096, 0.33508456], [0.83659905, 1.0227708]]),
    ("rnn_tanh", True, 4, [[0.33621645] * 4, [0.6262637] * 4]),
]


@pytest.mark.parametrize(("cell", "bias", "units", "expected"), PUBLISHED_WITH_STATE)
def test_keras_published_values_from_an_initial_state(cell, bias, units, expected):
    layer = imported(cell, [constant_weights(cell, 3, units, bias)])
    state = np.arange(2 * units, dtype="float32").reshape(1, 2, units)
    y, _ = layer(np.arange(24, dtype="float32").reshape(2, 4, 3), (state, state) if cell == "lstm" else state)
    np.testing.assert_allclose(y[:, -1], expected, atol=1e-5)


def test_keras_published_values_of_masked_sequences():
    """A mask that ends sequences early is their lengths; with zero_output_for_mask=True, y is zero behind them."""
    layer = imported("lstm", [constant_weights("lstm", 3, 2, "forget")])
    y, (h_n, _) = layer(np.arange(24, dtype="float32").reshape(2, 4, 3), None, [3, 2])
    expected = np.array([[0.01588910, 0.05552048, 0.11755939, 0], [0.14185596, 0.28556206, 0, 0]])
    np.testing.assert_allclose(y, expected[:, :, None].repeat(2, 2), atol=1e-5)
    np.testing.assert_allclose(h_n[0], [[0.11755939] * 2, [0.28556206] * 2], atol=1e-5)


# Keras itself


def keras_layers(keras, cell, layers, D, bias):
    """Keras's layers one above the other, all of them giving sequences and states."""
    _, _, name, own = CELLS[cell]
    stack = []
    for _ in range(layers):
        layer = getattr(keras.layers, name)(H, return_sequences=True, return_state=True, use_bias=bias, **own)
        stack.append(keras.layers.Bidirectional(layer) if D == 2 else layer)
    return stack


def run_keras(cell, stack, x, state=None):
    """y of the last one, and all final states in our order, (L*D, B, H) each."""
    finals = []
    for layer in stack:
        x, *states = layer(x) if state is None else layer(x, initial_state=state)
        finals.append([final.detach().numpy() for final in states])
        state = None
    count = 2 if cell == "lstm" else 1
    by_kind = [[final for states in finals for final in states[kind::count]] for kind in range(count)]
    return x.detach().numpy(), [np.stack(kind) for kind in by_kind]


def assert_same_outputs(ours, cell, stack, x):
    expected_y, expected_states = run_keras(cell, stack, x)
    y, state = ours(x)
    assert_close(y, expected_y)
    for final, expected in zip(as_tuple(state), expected_states, strict=True):
        assert_close(final, expected)


@pytest.mark.parametrize("layers", [1, 2])
@directions
@biases
@every_cell
def test_imported_weights_compute_what_keras_does(keras, cell, bias, D, layers):
    stack = keras_layers(keras, cell, layers, D, bias)
    x = normal(B, T, I)
    run_keras(cell, stack, x)  # makes their weights
    for layer, arrays in zip(stack, keras_weights(cell, layers, D, bias), strict=True):
        layer.set_weights(arrays)
    ours = imported(cell, [layer.get_weights() for layer in stack])
    assert_same_outputs(ours, cell, stack, x)


@pytest.mark.parametrize("layers", [1, 2])
@directions
@biases
@every_cell
def test_exported_weights_make_keras_compute_what_the_layer_does(keras, cell, bias, D, layers):
    ours = make_layer(cell, I, H, num_layers=layers, bidirectional=D == 2, bias=bias, batch_first=True)
    stack = keras_layers(keras, cell, layers, D, bias)
    x = normal(B, T, I)
    run_keras(cell, stack, x)
    for layer, arrays in zip(stack, fastrnn.to_keras_weights(ours), strict=True):
        layer.set_weights(arrays)
    assert_same_outputs(ours, cell, stack, x)


@every_cell
def test_initial_states_are_keras(keras, cell):
    (layer,) = stack = keras_layers(keras, cell, 1, 1, True)
    x, states = normal(B, T, I), [normal(B, H, seed=k) for k in range(2 if cell == "lstm" else 1)]
    run_keras(cell, stack, x)
    expected_y, _ = run_keras(cell, stack, x, [keras.ops.convert_to_tensor(s) for s in states])
    ours = imported(cell, [layer.get_weights()])
    y, _ = ours(x, tuple(s[None] for s in states) if cell == "lstm" else states[0][None])
    assert_close(y, expected_y)


# There and back


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@biases
@directions
@every_cell
def test_keras_weights_come_back_the_same_to_the_bit(cell, D, bias, dtype):
    weights = keras_weights(cell, 2, D, bias, dtype)
    layer = imported(cell, weights)
    assert layer.batch_first
    assert (layer.num_layers, layer.num_directions, layer.bias) == (2, D, bias)
    back = fastrnn.to_keras_weights(layer)
    assert [len(arrays) for arrays in back] == [len(arrays) for arrays in weights]
    for arrays, expected in zip(back, weights, strict=True):
        for array, wanted in zip(arrays, expected, strict=True):
            np.testing.assert_array_equal(array, wanted, strict=True)
            assert not any(np.shares_memory(array, parameter) for parameter in layer.parameters.values())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lstmp"])
def test_our_parameters_come_back_but_for_the_sum_of_biases(kind):
    layer = make_layer(kind, I, H, num_layers=2, bidirectional=True)
    back = imported(kind, fastrnn.to_keras_weights(layer), batch_first=False, backend="reference")
    assert (back.backend, back.batch_first, back.cell) == ("reference", False, layer.cell)
    expected = layer.state_dict()
    if kind != "gru":
        for name in [name for name in expected if name.startswith("bias_ih")]:
            expected[name] += expected[name.replace("ih", "hh")]
            expected[name.replace("ih", "hh")][:] = 0
    for name, array in back.parameters.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name, strict=True)


# Refused


def test_one_error_names_every_misshapen_array():
    weights = keras_weights("lstm", 2, 2)
    weights[0][2] = normal(4 * H, 1)
    weights[1][0] = normal(H, 4 * H)
    weights[1][4] = weights[1][4].astype("float64")
    expected = (
        f"layers[0][2] (bias): expected shape ({4 * H},), got ({4 * H}, 1); "
        f"layers[1][0] (kernel): expected shape ({2 * H}, {4 * H}), got ({H}, {4 * H}); "
        "layers[1][4] (backward recurrent_kernel): expected float32, got float64"
    )
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # the whole message follows
        imported("lstm", weights)
    assert str(raised.value) == expected


def test_wrong_types_alone_are_a_type_error():
    (weights,) = keras_weights("gru")
    half = [array.astype("float16") for array in weights]
    expected = (
        r"^layers\[0\]\[0\] \(kernel\): expected float32, got float16; layers\[0\]\[1\] \(recurrent_kernel\): .*; "
    )
    with pytest.raises(TypeError, match=expected + r"layers\[0\]\[2\] \(bias\): expected float32, got float16$"):
        imported("gru", [half])
    with pytest.raises(TypeError, match=r"^layers\[0\]\[1\]: expected a NumPy array, got list$"):
        imported("gru", [[weights[0], weights[1].tolist(), weights[2]]])


def test_the_shape_of_the_bias_decides_between_the_grus():
    for cell in ("gru", "gru_reset_before"):
        assert fastrnn.from_keras_weights("gru", *keras_weights(cell)).cell == cell
        with pytest.raises(ValueError, match=r"^layers\[0\]\[2\] \(bias\): expected shape"):
            fastrnn.from_keras_weights("gru", *keras_weights(cell), reset_after=cell != "gru")
    for reset_after in (None, True, False):
        layer = fastrnn.from_keras_weights("gru", *keras_weights("gru", bias=False), reset_after=reset_after)
        assert layer.reset_after is (reset_after is not False)


WEIGHTS = keras_weights("lstm")[0]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("LSTM", WEIGHTS), {}, ValueError, 'cell: expected "lstm" or "gru" or "rnn", got "LSTM"'),
        (("lstm",), {}, ValueError, "layers: expected the get_weights() of at least one Keras layer, got none"),
        (("lstm", WEIGHTS[:1]), {}, ValueError, "layers[0]: expected 2, 3, 4 or 6 arrays, got 1"),
        (
            ("lstm", WEIGHTS, WEIGHTS[:2], WEIGHTS, WEIGHTS * 2),
            {},
            ValueError,
            "layers[1]: expected 3 arrays as in layers[0], got 2; layers[3]: expected 3 arrays as in layers[0], got 6",
        ),
        (
            ("lstm", *WEIGHTS),
            {},
            TypeError,
            "layers[0]: expected a list of arrays, as get_weights() gives, got ndarray",
        ),
        (("lstm", WEIGHTS), {"reset_after": True}, ValueError, 'reset_after: expected with cell = "gru" only'),
        (("lstm", WEIGHTS), {"nonlinearity": "relu"}, ValueError, 'nonlinearity: expected with cell = "rnn" only'),
        (("gru", WEIGHTS), {}, ValueError, f"layers[0][0] (kernel): expected shape ({I}, {3 * H}), got ({I}, {4 * H})"),
        (("rnn", [1.0, 2.0]), {}, TypeError, "layers[0][0]: expected a NumPy array, got float; layers[0][1]: "),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, options, error, message):
    with pytest.raises(error) as raised:
        fastrnn.from_keras_weights(*arguments, **options)
    assert str(raised.value).startswith(message)


def test_what_keras_has_not_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^layer: expected no projection, which Keras has not, got proj_size=2$"):
        fastrnn.to_keras_weights(make_layer("lstmp", I, H))
    with pytest.raises(TypeError, match=r"^layer: expected a fastrnn LSTM, GRU or RNN, got list$"):
        fastrnn.to_keras_weights([])
