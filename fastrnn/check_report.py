"""What `fastrnn.check` found: each output and gradient with its error and bound, and the table of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """One output or gradient. `note` says what `error` cannot: values that are not finite, a wrong shape or dtype."""

    name: str
    shape: tuple[int, ...]
    error: float
    bound: float
    ok: bool
    note: str = ""

    def badness(self) -> tuple[bool, float]:
        """Whether it failed, and how much of its bound it uses: for comparison."""
        return not self.ok, self.error / self.bound


@dataclass(frozen=True)
class Report:
    """What `check` found; `print` shows it as a table.

    title       the layer and its input
    quantities  y, h_n, c_n of a call; the same from `vjp`; dx, dh_0, dc_0 and d<parameter> from `backward`
    """

    title: str
    quantities: tuple[Quantity, ...]

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[Quantity, ...]:
        """The quantities outside their bounds."""
        return tuple(q for q in self.quantities if not q.ok)

    @property
    def worst(self) -> Quantity:
        """The quantity that failed, if any did, with the largest part of its bound used up."""
        return max(self.quantities, key=Quantity.badness)

    def raise_if_failed(self) -> None:
        """RuntimeError, with the whole table, unless all quantities are within their bounds."""
        if not self.ok:
            raise RuntimeError(str(self))

    def __str__(self) -> str:
        rows = [("quantity", "shape", "error", "bound", "")]
        rows += [(q.name, str(q.shape), f"{q.error:.1e}", f"{q.bound:.1e}", _verdict(q)) for q in self.quantities]
        name, shape = (max(len(row[column]) for row in rows) for column in (0, 1))
        lines = [f"{row[0]:{name}}  {row[1]:{shape}}  {row[2]:>7}  {row[3]:>7}  {row[4]}".rstrip() for row in rows]
        failed = "; ".join(q.name for q in self.failed)
        last = f"FAILED: {failed}" if failed else f"All {len(self.quantities)} are within their bounds."
        return "\n".join([self.title, "", *lines, "", last])


def _verdict(quantity: Quantity) -> str:
    return ("ok" if quantity.ok else "FAILED") + (f": {quantity.note}" if quantity.note else "")
