"""The gate formulas and the table of cells, run on Python floats: no vector, no loop, no compiler."""

import inspect
import math
import random

import pytest
from fastrnn.kernels import cells, functions
from fastrnn.kernels.cells import CELLS
from fastrnn.kernels.planes import backward_planes, forward_planes

from fastrnn import reference

EPS = 2.0**-52


def sigma(a):
    return 1 / (1 + math.exp(-a))


def lstm_equations(i, f, g, o, c_prev):
    c = sigma(f) * c_prev + sigma(i) * math.tanh(g)
    return sigma(o) * math.tanh(c), c, sigma(i), sigma(f), math.tanh(g), sigma(o)


def gru_equations(xn, r, z, hn, h_prev):
    n = math.tanh(xn + sigma(r) * hn)
    return (1 - sigma(z)) * n + sigma(z) * h_prev, n, sigma(r), sigma(z), hn


def gru_reset_equations(r, z, h_prev):
    return sigma(r) * h_prev, sigma(z), sigma(r)


def gru_candidate_equations(n, z, h_prev):
    return (1 - z) * math.tanh(n) + z * h_prev, math.tanh(n)


def of_stage(cell, number=0):
    """What a forward stage makes of its sums and, behind them, the values it reads."""
    stage = CELLS[cell].forward[number]
    sums = len(stage.begins)
    return lambda *values: stage.outputs(values[:sums], values[sums:])


FORMULAS = {
    "lstm": (of_stage("lstm"), lstm_equations),
    "gru": (of_stage("gru"), gru_equations),
    "gru_reset": (of_stage("gru_reset_before"), gru_reset_equations),
    "gru_candidate": (of_stage("gru_reset_before", 1), gru_candidate_equations),
    "rnn_tanh": (of_stage("rnn_tanh"), lambda a: (math.tanh(a),)),
    "rnn_relu": (of_stage("rnn_relu"), lambda a: (max(a, 0.0),)),
    "plus_direct": (cells.plus_direct, lambda back, direct: (back + direct,)),
    "hidden_gradient": (cells.hidden_gradient, lambda back, dy, dh_next: (back + dy + dh_next, back + dh_next)),
    "same": (cells.same, lambda *values: values),
}
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)


# The formulas


@pytest.mark.parametrize("name", FORMULAS)
def test_a_forward_formula_is_its_equation(name):
    formula, equation = FORMULAS[name]
    arity = len(inspect.signature(equation).parameters)
    rng = random.Random(name)
    for scale in (0.1, 1, 10, 100):
        for _ in range(20):
            values = [rng.uniform(-scale, scale) for _ in range(arity)]
            outputs = formula(*values)
            assert type(outputs) is tuple
            assert outputs == pytest.approx(equation(*values), rel=8 * EPS, abs=8 * EPS)


@pytest.mark.parametrize(
    ("function", "a", "expected"),
    [
        (functions.sigmoid, -math.inf, 0.0),
        (functions.sigmoid, math.inf, 1.0),
        (functions.sigmoid, -800.0, 0.0),
        (functions.sigmoid, 800.0, 1.0),
        (functions.sigmoid, -700.0, math.exp(-700)),
        (functions.sigmoid, 0.0, 0.5),
        (functions.tanh, -math.inf, -1.0),
        (functions.relu, -math.inf, 0.0),
        (functions.relu, math.inf, math.inf),
        (functions.relu, -0.0, 0.0),
    ],
)
def test_the_functions_have_their_limits(function, a, expected):
    assert function(a) == expected


@pytest.mark.parametrize("function", [functions.sigmoid, functions.tanh, functions.relu])
def test_the_functions_hand_nan_on(function):
    assert math.isnan(function(math.nan))


@pytest.mark.parametrize(
    ("h", "dh", "expected"), [(2.0, 3.0, 3.0), (0.0, 3.0, 0.0), (-0.0, 3.0, 0.0), (math.nan, 3.0, 3.0)]
)
def test_the_gradient_of_relu_is_zero_where_its_output_is(h, dh, expected):
    assert functions.relu_gradient(h, dh) == expected


# The cells, as the table puts the formulas together, with one unit: every weight is a number for each gate, every plane
# a number. What the loops do, in as few lines as it can be said.


class OneUnit:
    """A cell with one unit, one input and a batch of one, over a few steps of Python floats."""

    def __init__(self, cell, rng, steps=4):
        self.cell = cell
        gates = range(cell.gates)
        names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
        # relu's corner, where differences mean nothing, stays out of reach
        low, high = (0.2, 1.0) if cell.name == "rnn_relu" else (-1.5, 1.5)
        self.values = {(name, gate): rng.uniform(low, high) for name in names for gate in gates}
        if cell.name == "lstm_projected":
            self.values["weight_hr", 0] = rng.uniform(low, high)
        self.values |= {("x", t): rng.uniform(low, high) for t in range(steps)}
        self.values |= {("h_0", 0): rng.uniform(low, high)}
        if cell.has_cell_state:
            self.values["c_0", 0] = rng.uniform(low, high)
        # added to the states on the way: what a step's gradients are derivatives by
        self.values |= {("h", t): 0.0 for t in range(steps)}
        if cell.has_cell_state:
            self.values |= {("c_prev", t): 0.0 for t in range(steps)}
        self.steps = steps
        self.upstream = {t: rng.uniform(-1, 1) for t in range(steps)} | {n: rng.uniform(-1, 1) for n in ("h_n", "c_n")}

    def forward(self, values):
        """The planes of every step; h and c of the step before are among them."""
        cell, steps = self.cell, []
        h_prev, c_prev = values["h_0", 0], values.get(("c_0", 0))
        biases = {b.plane: sum(values[name, b.gate] for name in b.parameters) for b in cell.biases}
        for t in range(self.steps):
            planes = {"zero": 0.0, "x": values["x", t], "h_prev": h_prev, "c_prev": c_prev, **biases}
            if cell.has_cell_state:
                planes["c_prev"] += values["c_prev", t]
            for bias, plane in zip(cell.biases, cell.inputs, strict=False):
                planes[plane] = planes[bias.plane] + values["weight_ih", bias.gate] * values["x", t]
            for stage in cell.forward:
                begins = [planes[name] for name in stage.begins]
                (operand,) = stage.operand
                alone = len(begins) - len(stage.gates)
                sums = [*begins[:alone]] + [
                    begin + planes[operand] * values[stage.weight, gate]
                    for begin, gate in zip(begins[alone:], stage.gates, strict=True)
                ]
                outputs = stage.outputs(sums, [planes[name] for name in stage.reads])
                planes |= dict(zip(stage.writes, outputs, strict=True))
            planes["h"] += values["h", t]
            h_prev, c_prev = planes["h"], planes.get("c")
            steps.append(planes)
        return steps

    def loss(self, values):
        """A random linear function of every output."""
        steps = self.forward(values)
        final = steps[-1]["h"] * self.upstream["h_n"] + (steps[-1].get("c") or 0.0) * self.upstream["c_n"]
        return final + sum(planes["h"] * self.upstream[t] for t, planes in enumerate(steps))

    def gradients(self):
        """Of every value, by the backward stages and the weight gradients of the table."""
        cell, values = self.cell, self.values
        gradients = dict.fromkeys(values, 0.0)
        dh_next, dc_next = self.upstream["h_n"], self.upstream["c_n"]
        later = None
        steps = self.forward(values)
        for t in reversed(range(self.steps)):
            planes = steps[t] | {"dy": self.upstream[t], "dh_next": dh_next, "dc_next": dc_next}
            for number, stage in enumerate(cell.backward):
                operands = later if number == 0 else planes
                (total,) = (planes[name] for name in stage.begins)
                total += self.product(stage, operands)
                outputs = stage.outputs([total], [planes[name] for name in stage.reads])
                planes |= dict(zip(stage.writes + stage.keeps, outputs, strict=False))
            later = planes
            gradients["h", t] = self.upstream[t] + planes["carried"]
            if cell.has_cell_state:
                gradients["c_prev", t] = planes["dc_t"] * steps[t]["f"]
            dh_next = planes["dh_next"] if cell.carries_hidden else 0.0
            dc_next = planes["dc_next"]
            gradients["x", t] = sum(
                planes[name] * values["weight_ih", gate] for name, gate in zip(*cell.input_gradient, strict=True)
            )
            for entry in cell.weight_gradients:
                for gate, name in enumerate(entry.planes, start=entry.gate):
                    for weight, operand in entry.products:
                        gradients[weight, gate] += planes[name] * planes[operand]
                    for bias in entry.biases:
                        gradients[bias, gate] += planes[name]
        gradients["h_0", 0] = dh_next + self.product(cell.backward[0], later)
        if cell.has_cell_state:
            gradients["c_0", 0] = dc_next
        return gradients

    def product(self, stage, planes):
        """What a backward stage adds to its sum: nothing at the last step, that has none after it."""
        if planes is None:
            return 0.0
        weights = [self.values[stage.weight, gate] for gate in stage.gates]
        return sum(planes[name] * weight for name, weight in zip(stage.operand, weights, strict=True))

    def difference(self, key, step=1e-5):
        """The derivative of the loss by one value, from central differences of fourth order."""
        coefficients = {1: 8, -1: -8, 2: -1, -2: 1}
        moved = [c * self.loss(self.values | {key: self.values[key] + n * step}) for n, c in coefficients.items()]
        return math.fsum(moved) / (12 * step)


def equations(cell, values, steps):
    """h of every step, and the last c, by the equations of the papers, written out for one unit."""
    w, u, b, d = ([values[n, k] for k in range(cell.gates)] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h, c, hs = values["h_0", 0], values.get(("c_0", 0)), []
    for t in range(steps):
        x = values["x", t]
        a = [w[k] * x + b[k] + u[k] * h + d[k] for k in range(cell.gates)]
        if cell.name in ("lstm", "lstm_projected"):
            c = sigma(a[1]) * c + sigma(a[0]) * math.tanh(a[2])
            h = sigma(a[3]) * math.tanh(c) * values.get(("weight_hr", 0), 1.0)
        elif cell.name in ("gru", "gru_reset_before"):
            r, z = sigma(a[0]), sigma(a[1])
            recurrent = r * (u[2] * h + d[2]) if cell.name == "gru" else u[2] * (r * h) + d[2]
            h = (1 - z) * math.tanh(w[2] * x + b[2] + recurrent) + z * h
        else:
            h = math.tanh(a[0]) if cell.name == "rnn_tanh" else max(a[0], 0.0)
        hs.append(h)
    return hs, c


@every_cell
def test_the_stages_of_a_step_are_the_cells_equations(cell):
    for seed in range(10):
        unit = OneUnit(cell, random.Random(seed))
        steps = unit.forward(unit.values)
        hs, c = equations(cell, unit.values, unit.steps)
        assert [planes["h"] for planes in steps] == pytest.approx(hs, rel=1e-13, abs=1e-14)
        if cell.has_cell_state:
            assert steps[-1]["c"] == pytest.approx(c, rel=1e-13, abs=1e-14)


@every_cell
def test_the_backward_stages_are_the_derivatives_of_the_forward_stages(cell):
    for seed in range(10):
        unit = OneUnit(cell, random.Random(seed))
        for key, gradient in unit.gradients().items():
            assert gradient == pytest.approx(unit.difference(key), rel=1e-8, abs=1e-9), key


# The table


@every_cell
def test_a_cell_has_as_many_gates_as_elsewhere(cell):
    name = cell.name.removesuffix("_projected")
    assert CELLS[cell.name] is cell
    assert cell.gates == reference.GATES[name] == len(cell.inputs)


@every_cell
def test_formulas_take_and_give_what_the_stages_say(cell):
    for stage in cell.forward + cell.backward:
        begins = (0.5,) * len(stage.begins)
        assert len(begins) >= len(stage.gates) if stage in cell.forward else len(begins) == 1
        assert len(stage.activate(*begins)) == len(begins)
        outputs = stage.outputs(begins, [0.5] * len(stage.reads))
        # the LSTM's formula has one output more where its projection has a stage of its own
        assert len(outputs) - len(stage.writes + stage.keeps) == (stage.reads[:2] == ("zero", "zero"))
        assert 1 <= stage.always <= len(stage.writes)
        assert len(set(stage.writes)) == len(stage.writes)


@every_cell
def test_a_stage_reads_planes_that_are_there(cell):
    states = {"h_prev", "c_prev"} if cell.has_cell_state else {"h_prev"}
    biases = {bias.plane for bias in cell.biases}
    known = states | biases | set(cell.inputs) | {"zero"}
    for stage in cell.forward:
        assert known >= {*stage.operand, *stage.begins, *stage.reads}
        known |= set(stage.writes)
    assert set(cell.saved) <= known | set(cell.backward[-1].writes)

    final = {"h", "c"} if cell.has_cell_state else {"h"}
    gradients = {"dy", "dh_next", "dc_next"} if cell.has_cell_state else {"dy", "dh_next"}
    known = states | final | gradients | set(cell.saved) | {"zero"}
    for stage in cell.backward:
        assert known >= {*stage.operand, *stage.begins, *stage.reads}
        known |= set(stage.writes)
    for entry in cell.weight_gradients:
        assert {*entry.planes, *(operand for _, operand in entry.products)} <= known | {"x"}


@every_cell
def test_without_saving_every_plane_that_is_read_again_is_written(cell):
    written = {"h_prev", "c_prev", "zero", *cell.inputs, *(bias.plane for bias in cell.biases)}
    for stage in cell.forward:
        assert written >= {*stage.operand, *stage.begins, *stage.reads}
        written |= set(stage.writes[: stage.always])
    assert written >= ({"h", "c"} if cell.has_cell_state else {"h"})


@every_cell
def test_all_planes_are_in_the_loops_tables(cell):
    assert len(set(forward_planes(cell))) == len(forward_planes(cell))
    assert len(set(backward_planes(cell))) == len(backward_planes(cell))
    # `time_loops` finds the sums W x, then the biases that begin them, at the front
    gates = cell.gates
    assert forward_planes(cell)[: 2 * gates] == cell.inputs + tuple(bias.plane for bias in cell.biases[:gates])
    keeping = backward_planes(cell, keeping=True)
    for stages, planes in [
        (cell.forward, forward_planes(cell)),
        (cell.backward, backward_planes(cell)),
        (cell.backward, keeping),
    ]:
        for stage in stages:
            assert {*stage.operand, *stage.begins, *stage.reads, *stage.writes} <= set(planes)
    kept = {"dc_t", "carried"} if cell.has_cell_state else {"carried"}
    assert set(keeping) - set(backward_planes(cell)) == kept


@every_cell
def test_planes_multiplied_together_lie_side_by_side(cell):
    groups = [stage.operand for stage in cell.backward]
    groups += [cell.input_gradient[0], *(entry.planes for entry in cell.weight_gradients)]
    for group in groups:
        if len(group) > 1:
            start = cell.saved.index(group[0])
            assert cell.saved[start : start + len(group)] == group


@every_cell
def test_each_gate_of_each_weight_is_multiplied_once(cell):
    for stages in (cell.forward, cell.backward):
        recurrent = [gate for stage in stages if stage.weight == "weight_hh" for gate in stage.gates]
        assert sorted(recurrent) == list(range(cell.gates))
        projections = [stage for stage in stages if stage.weight == "weight_hr"]
        assert len(projections) == (cell.name == "lstm_projected")
        # the GPU's layer takes the gates of a stage as consecutive
        assert all(stage.gates == tuple(range(stage.gates[0], stage.gates[-1] + 1)) for stage in stages)
    assert sorted(cell.input_gradient[1]) == list(range(cell.gates))


@every_cell
def test_the_weight_gradients_cover_each_row_once(cell):
    rows = {"weight_ih": [], "weight_hh": [], "weight_hr": [], "bias_ih": [], "bias_hh": []}
    for entry in cell.weight_gradients:
        gates = range(entry.gate, entry.gate + len(entry.planes))
        for name in (*(weight for weight, _ in entry.products), *entry.biases):
            rows[name] += gates
    gates = list(range(cell.gates))
    projection = [0] if cell.name == "lstm_projected" else []
    expected = dict.fromkeys(rows, gates) | {"weight_hr": projection}
    assert {name: sorted(covered) for name, covered in rows.items()} == expected


@every_cell
def test_every_bias_is_added_once(cell):
    added = [(name, bias.gate) for bias in cell.biases for name in bias.parameters]
    assert sorted(added) == sorted((name, gate) for name in ("bias_ih", "bias_hh") for gate in range(cell.gates))
    assert sorted(cell.input_gates) == list(range(cell.gates))


@every_cell
def test_a_first_stage_that_takes_x_has_a_sum_for_each_gate_of_it(cell):
    stage = cell.forward[0]
    assert cell.takes_x == (cell is not cells.GRU_RESET_BEFORE)
    if cell.takes_x:
        assert stage.begins[: cell.gates] == cell.inputs


def test_the_diagnostics_know_every_cell():
    from fastrnn.diagnostics import flow, gates, jacobian, nans

    names = {name.removesuffix("_projected") for name in CELLS}
    for table in (gates._RANGES, nans._ORDER, jacobian._JACOBIANS):
        assert table.keys() == names
    assert flow.MEMORY_GATES.keys() < names


def test_the_formulas_import_no_numba():
    names = {name for module in (cells, functions) for name in vars(module)}
    assert not names & {"numba", "njit", "overload", "numpy", "np"}
