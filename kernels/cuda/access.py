"""Device functions that read and write planes: what the gate kernel and the persistent kernels share.

Functions of several planes are put together from functions of one, because a compiled kernel cannot loop over planes
of different types.
"""

from collections.abc import Callable, Sequence

from .planes import ITEMSIZE, PLANE_WORDS, WORD, Pass, bias_plane, stored
from .target import device, load_word, loader, prefetch, storer, zero

_ROW_BYTES = PLANE_WORDS * WORD


@device
def place(table, index, step, row):
    """The address of unit 0 of a row of plane number `index`."""
    words = table + index * _ROW_BYTES
    if step == load_word(words + 24):
        return load_word(words + 32) + row * load_word(words + 40)
    return load_word(words) + step * load_word(words + 8) + row * load_word(words + 16)


def plane_reader(run: Pass, plane: str, dtype: str, has_bias: bool) -> Callable:
    """read(table, step, row, unit): one number. The sums W x come with their biases."""
    zero_value = zero(dtype)
    biases = {bias.plane: bias for bias in run.biases}
    if plane == "zero":
        return device(lambda table, step, row, unit: zero_value())
    if plane in biases:
        if not has_bias:
            return device(lambda table, step, row, unit: zero_value())
        names = [bias_plane(biases[plane], parameter) for parameter in biases[plane].parameters]
        return _sum_reader(run, names, dtype)
    if run.forward and has_bias and plane in run.cell.inputs:
        bias = run.biases[run.cell.inputs.index(plane)]
        return _sum_reader(run, [plane, *(bias_plane(bias, parameter) for parameter in bias.parameters)], dtype)
    return _sum_reader(run, [plane], dtype)


def _sum_reader(run: Pass, planes: Sequence[str], dtype: str) -> Callable:
    """The sum of planes, the biases first."""
    index, kind = run.planes.index(planes[0]), stored(planes[0], dtype)
    size, load = ITEMSIZE[kind], loader(kind)

    @device
    def read(table, step, row, unit):
        return load(place(table, index, step, row) + unit * size)

    if len(planes) == 1:
        return read
    others = _sum_reader(run, planes[1:], dtype)
    return device(lambda table, step, row, unit: others(table, step, row, unit) + read(table, step, row, unit))


def planes_reader(run: Pass, planes: Sequence[str], dtype: str, has_bias: bool) -> Callable:
    """read(table, step, row, unit): a tuple of one number from each plane."""
    if not planes:
        return device(lambda table, step, row, unit: ())
    first = plane_reader(run, planes[0], dtype, has_bias)
    others = planes_reader(run, planes[1:], dtype, has_bias)
    return device(lambda table, step, row, unit: (first(table, step, row, unit), *others(table, step, row, unit)))


def planes_locator(run: Pass, planes: Sequence[str], dtype: str) -> Callable:
    """locate(table, step, row, unit): a tuple of the addresses of one number of each plane.

    For all planes before the first is written: to the compiler a store may change the table, and so each number would
    wait until the table is read once more.
    """
    if not planes:
        return device(lambda table, step, row, unit: ())
    index, size = run.planes.index(planes[0]), ITEMSIZE[stored(planes[0], dtype)]
    others = planes_locator(run, planes[1:], dtype)

    @device
    def locate(table, step, row, unit):
        return (place(table, index, step, row) + unit * size, *others(table, step, row, unit))

    return locate


def planes_writer(planes: Sequence[tuple[int, str]], dtype: str) -> Callable:
    """write(addresses, values): number `i` of the tuple to the plane, for each (i, plane) given."""
    return writer([(number, storer(stored(plane, dtype))) for number, plane in planes])


def writer(stores: Sequence[tuple[int, Callable]], position: int = 0) -> Callable:
    """write(addresses, values): for each (i, store) given, number `i` of the tuple to the next address."""
    if position == len(stores):
        return device(lambda addresses, values: None)
    number, store = stores[position]
    others = writer(stores, position + 1)

    @device
    def write(addresses, values):
        store(addresses[position], values[number])
        others(addresses, values)

    return write


def fetcher(planes: int, position: int = 0) -> Callable:
    """fetch(addresses): bring the number at each of so many addresses nearer, for a read to come."""
    if position == planes:
        return device(lambda addresses: None)
    others = fetcher(planes, position + 1)

    @device
    def fetch(addresses):
        prefetch(addresses[position])
        others(addresses)

    return fetch
