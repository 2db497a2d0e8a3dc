"""A recurrent layer of PyTorch's weights as an ONNX model of one node, without what joins several layers."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.cases import Problem
from fastrnn.interchange.layouts import ONNX_GATES, reordered

OPSET = 14


def one_node_model(problem: Problem) -> bytes:
    """Serialise the layer: inputs x (T,B,I) and the initial states, outputs Y (T,1,B,H) and the final states."""
    T, B, I, H = problem.sizes
    ours = {name: reordered(array, ONNX_GATES[problem.cell])[None] for name, array in problem.parameters.items()}
    bias = np.concatenate([ours["bias_ih_l0"], ours["bias_hh_l0"]], axis=1)
    weights = {"W": ours["weight_ih_l0"], "R": ours["weight_hh_l0"], "B": bias}
    attributes = {"linear_before_reset": 1} if problem.cell == "gru" else {}
    node = helper.make_node(
        problem.cell.upper(),
        ["x", "W", "R", "B", "", *problem.state],  # the empty name is sequence_lens
        ["y", *problem.dstate],
        hidden_size=H,
        **attributes,
    )

    def info(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        problem.cell,
        inputs=[info("x", (T, B, I)), *(info(name, (1, B, H)) for name in problem.state)],
        outputs=[info("y", (T, 1, B, H)), *(info(name, (1, B, H)) for name in problem.dstate)],
        initializer=[numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    # IR version 8 goes with opset 14-15: older runtimes still read it.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()
