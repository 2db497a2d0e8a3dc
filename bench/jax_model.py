"""A recurrent layer in JAX: W x of all steps as one product, then `lax.scan` over the steps, compiled by `jax.jit`."""

from __future__ import annotations

import numpy as np

from bench.cases import Problem
from bench.competitors import Runner


def prepare_jax(problem: Problem, mode: str, threads: int) -> Runner:
    """Forward, or forward and the gradients by `jax.vjp` under one `jit`. Threads are the process's (see apart.py).

    Matrices lie as JAX's own libraries keep them, (inputs, units): turned, each call would turn them.
    """
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # every call waits: handing it to a thread costs only
    jax.config.update("jax_enable_x64", True)  # float32 arrays stay float32; without it float64 would become float32
    step = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}[problem.cell]

    def layer(weights, x, state):
        """y (T, B, H) and the final states, in PyTorch's names and gate orders."""
        inputs = x @ weights["weight_ih_l0"] + weights["bias_ih_l0"]
        R, bias = weights["weight_hh_l0"], weights["bias_hh_l0"]

        def body(state, sums):
            state = step(sums, state[0] @ R + bias, state)
            return state, state[0]

        final, y = jax.lax.scan(body, tuple(value[0] for value in state), inputs)
        return y, tuple(value[None] for value in final)

    @jax.jit
    def forward(weights, x, state):
        return layer(weights, x, state)

    @jax.jit
    def training(weights, x, state, upstream):
        results, backward = jax.vjp(layer, weights, x, state)
        return results, backward(upstream)

    def turned(array):
        return np.ascontiguousarray(np.asarray(array).T)

    state, dstate = tuple(problem.state.values()), tuple(problem.dstate.values())
    weights = {name: turned(array) for name, array in problem.parameters.items()}
    arguments = jax.device_put((weights, problem.x, state))
    upstream = jax.device_put((problem.dy, dstate))

    def call():
        result = forward(*arguments) if mode == "forward" else training(*arguments, upstream)
        return jax.block_until_ready(result)

    def outputs(result):
        (y, final), gradients = (result, None) if mode == "forward" else result
        named = {"y": y} | dict(zip(problem.dstate, final, strict=True))
        if gradients is not None:
            dweights, dx, dinitial = gradients
            named |= {
                "x": dx,
                **dict(zip(problem.state, dinitial, strict=True)),
                **{name: turned(d) for name, d in dweights.items()},
            }
        return {name: np.asarray(array) for name, array in named.items()}

    return Runner(call, outputs)


def _lstm(x_sums, h_sums, state):
    import jax
    import jax.numpy as jnp

    i, f, g, o = jnp.split(x_sums + h_sums, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru(x_sums, h_sums, state):
    import jax
    import jax.numpy as jnp

    (x_r, x_z, x_n), (h_r, h_z, h_n) = jnp.split(x_sums, 3, axis=-1), jnp.split(h_sums, 3, axis=-1)
    z = jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * h_n)
    return ((1 - z) * n + z * state[0],)


def _rnn(x_sums, h_sums, state):
    import jax.numpy as jnp

    return (jnp.tanh(x_sums + h_sums),)
