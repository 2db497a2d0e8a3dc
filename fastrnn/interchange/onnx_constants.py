"""Constants of an ONNX graph: what it holds, and what few operators make of that."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

# exporters leave constants behind these, and tools that shrink weights
_OPERATORS = ("Cast", "Concat", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_VALUES = ("value", "value_float", "value_floats", "value_int", "value_ints")  # of a Constant node
_MOST_GROWTH = 16  # a model of some bytes may stand for so many times as many


class Constants:
    """The values in the main graph of a model that depend on nothing else. ValueError for those that are damaged."""

    def __init__(self, model: "onnx.ModelProto", opset: int) -> None:
        self._model = model
        self._opset = opset
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._producers = {output: node for node in model.graph.node for output in node.output if output}
        self._values: dict[str, np.ndarray] = {}

    def producer(self, name: str) -> "onnx.NodeProto | None":
        """The node that makes this value, if one does and the model does not hold it."""
        return None if name in self._initializers else self._producers.get(name)

    def value(self, name: str) -> np.ndarray | None:
        """The value of that name; None if it is no constant."""
        order = self._order(name)
        if order is None or any(map(self._is_in_another_file, order)):
            return None
        for each in order:
            if each not in self._values:
                self._values[each] = self._made(each)
        return self._values[name]

    def lies_elsewhere(self, name: str) -> bool:
        """Whether the value is a constant but for tensors in other files, which the model was loaded without."""
        return any(map(self._is_in_another_file, self._order(name) or ()))

    def is_sparse(self, name: str) -> bool:
        """Whether the value is held as a sparse tensor, which is not for us."""
        return any(tensor.values.name == name for tensor in self._model.graph.sparse_initializer)

    def _is_in_another_file(self, name: str) -> bool:
        if name in self._initializers:
            return in_another_file(self._initializers[name])
        tensor = _tensor(self._producers[name])
        return tensor is not None and in_another_file(tensor)

    def _order(self, name: str) -> list[str] | None:
        """All that the value is made of, each behind its own parts, and itself last; None if it is no constant."""
        order: list[str] = []
        known, begun = set(), set()
        stack = [(name, False)]
        while stack:
            each, parts_known = stack.pop()
            if parts_known:
                order.append(each)
                known.add(each)
            elif each not in known:
                parts = self._parts(each)
                if parts is None or each in begun:  # a damaged graph may have circles
                    return None
                begun.add(each)
                stack.append((each, True))
                stack += [(part, False) for part in parts]
        return order

    def _parts(self, name: str) -> list[str] | None:
        """The values that this one is directly made of; None if that is not for us."""
        if name in self._initializers:
            return []
        node = self._producers.get(name)
        if node is None:
            return None
        if is_one_of(node, ("Constant",)):
            return [] if any(attribute.name in _VALUES for attribute in node.attribute) else None
        parts = [each for each in node.input if each]
        return parts if parts and is_one_of(node, _OPERATORS) else None

    def _made(self, name: str) -> np.ndarray:
        """A value whose parts are known."""
        if name in self._initializers:
            return array(name, self._initializers[name])
        node = self._producers[name]
        tensor = _tensor(node)
        if tensor is not None:
            return array(name, tensor)
        parts = {each: self._values[each] for each in node.input if each}
        if node.op_type == "Identity":
            return next(iter(parts.values()))
        size = sum(self._values[each].nbytes for each in node.input if each)
        if size > _MOST_GROWTH * self._model.ByteSize():
            raise ValueError(f"model: expected constants of about its own size, got {name!r} of {size:,} bytes")
        return self._computed(name, node, parts)

    def _computed(self, name: str, node: "onnx.NodeProto", parts: dict[str, np.ndarray]) -> np.ndarray:
        """What a node makes of constants, by ONNX's own reference."""
        from onnx import helper, numpy_helper, reference

        given = [numpy_helper.from_array(value, each) for each, value in parts.items()]
        graph = helper.make_graph([node], "constant", [], [helper.make_empty_tensor_value_info(name)], given)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)])
        try:
            (result,) = reference.ReferenceEvaluator(model).run([name], {})
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(f"model: expected {name!r} to be what {node.op_type} can make: {error}") from error
        return np.asarray(result)


def is_one_of(node: "onnx.NodeProto", operators: tuple[str, ...]) -> bool:
    """Whether it is one of these operators of ONNX's own: others may have the same names."""
    return node.op_type in operators and node.domain in ("", "ai.onnx")


def _tensor(node: "onnx.NodeProto") -> Any:
    """The value of a Constant node that has it in that attribute; None for others."""
    from onnx import helper

    values = [helper.get_attribute_value(each) for each in node.attribute if each.name == "value"]
    return values[0] if values and node.op_type == "Constant" else None


def in_another_file(tensor: Any) -> bool:
    """Whether it is a tensor whose numbers are elsewhere: it was loaded without them."""
    from onnx import TensorProto, external_data_helper

    return isinstance(tensor, TensorProto) and external_data_helper.uses_external_data(tensor)


def array(name: str, tensor: Any) -> np.ndarray:
    """The numbers of the value of that name."""
    from onnx import TensorProto, numpy_helper

    if not isinstance(tensor, TensorProto):
        raise ValueError(f"model: expected a tensor as the value of {name!r}, got {type(tensor).__name__}")
    try:
        return numpy_helper.to_array(tensor)
    except KeyError as error:
        raise ValueError(f"model: expected {name!r} to be a tensor of a known data type, got {error}") from error
    except (ValueError, TypeError) as error:  # too few numbers for its shape, for example
        raise ValueError(f"model: expected {name!r} to be a whole tensor: {error}") from error
