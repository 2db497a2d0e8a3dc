"""A plain RNN whose recurrent matrix is scaled: how fast its gradient vanishes or explodes."""

from typing import Any

import numpy as np

from fastrnn import RNN
from fastrnn.diagnostics import gradient_flow, jacobians

from .look import by_lag, spectral_radius
from .settings import Settings
from .tasks import Adding

RADII = (0.8, 0.9, 1.0, 1.1, 1.2)
_MATRICES, _INPUTS = 4, 5  # beside the seed
_BATCH = 16


def scaled_matrices(settings: Settings, seed: int) -> dict[str, Any]:
    """A random and an orthogonal matrix at each spectral radius, with the state at rest and driven by input.

    At rest neither input nor bias moves the state from 0: the Jacobian of a step is the matrix itself. Driven, the
    RNN reads the adding problem's input through PyTorch's initial weights. In float64, so that nothing underflows.
    """
    generator = np.random.default_rng((seed, _MATRICES))
    x = Adding(settings.scaling_steps).examples(_BATCH, np.random.default_rng((seed, _INPUTS))).x.astype(np.float64)
    H = settings.hidden
    bound = H**-0.5
    shapes = {
        "random": generator.uniform(-bound, bound, (H, H)),
        "orthogonal": np.linalg.qr(generator.standard_normal((H, H)))[0],
    }
    rows = []
    for name, matrix in shapes.items():
        for radius in RADII:
            for driven in (False, True):
                layer = RNN(2, H, dtype="float64", seed=seed)
                layer.parameters["weight_hh_l0"][...] = matrix * (radius / spectral_radius(matrix))
                if not driven:
                    layer.parameters["bias_ih_l0"][...] = layer.parameters["bias_hh_l0"][...] = 0.0
                rows.append(
                    {"seed": seed, "matrix": name, "radius": radius, "driven": driven}
                    | _measured(layer, x if driven else np.zeros_like(x), driven, generator)
                )
    return {"scaled": rows}


def _measured(layer: RNN, x: np.ndarray, driven: bool, generator: np.random.Generator) -> dict[str, Any]:
    dy = np.zeros((*x.shape[:2], layer.hidden_size))
    dy[-1] = generator.standard_normal(dy.shape[1:])
    flow = gradient_flow(layer, x, dy=dy)
    lags, norms = by_lag(flow.lags, flow.transmitted[0])
    steps = jacobians(layer, x) if driven else None
    return {
        "decay": flow.decay_per_step[0],
        "lyapunov": np.exp(steps.lyapunov_exponents[0]) if steps else None,
        "jacobian_radius": steps.spectral_radius.mean() if steps else None,
        "lags": lags,
        "norms": norms,
    }
