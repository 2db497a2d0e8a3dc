"""Who may import whom, read from the sources: layers -> sequence -> {reference, cpu -> kernels}, and kernels nobody."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import fastrnn

ROOT = Path(__file__).resolve().parent.parent
# where the sources lie, and what they are installed as
PACKAGES = {"fastrnn": "fastrnn", "kernels": "fastrnn.kernels"}
OPTIONAL = {"torch", "onnx", "onnxruntime", "google", "keras", "safetensors", "matplotlib", "rich", "cupy", "ml_dtypes"}
# a package for a framework: whoever imports it has the framework
ADAPTERS = {"fastrnn.torch"}


class Import(NamedTuple):
    module: str  # who imports
    imported: str  # what, in full
    late: bool  # within a function


def sources():
    """{module: file} of the package."""
    found = {}
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = (package, *path.relative_to(ROOT / folder).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


SOURCES = sources()


def imports(module, path):
    """All imports of a file that are ever run. `from a import b` imports a.b if that is a module."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def walk(node, late):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, late)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                start = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*start, *([base] if base else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield Import(module, whole if whole in SOURCES or base == "numba" else base, late)
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, late)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False)


ALL = [each for module, path in SOURCES.items() for each in imports(module, path)]


def within(name, package):
    return name == package or name.startswith(package + ".")


def imported_by(module):
    return {each.imported for each in ALL if each.module == module}


def test_the_sources_are_found():
    assert {"fastrnn", "fastrnn.layers", "fastrnn.cpu", "fastrnn.kernels.cells", "fastrnn.kernels"} <= set(SOURCES)
    assert "fastrnn.sequence" in imported_by("fastrnn.network")
    assert "fastrnn.kernels.simd" in imported_by("fastrnn.kernels.elementary")
    assert Import("fastrnn.sequence", "fastrnn.cpu", late=True) in ALL


def test_kernels_import_nothing_of_the_package_around_them():
    wrong = [
        each
        for each in ALL
        if within(each.module, "fastrnn.kernels")
        and within(each.imported, "fastrnn")
        and not within(each.imported, "fastrnn.kernels")
    ]
    assert wrong == []


def test_kernels_import_each_other_relatively():
    """So that they are the same modules whatever the package is called or mapped to."""
    for module, path in SOURCES.items():
        if within(module, "fastrnn.kernels"):
            absolute = [
                name.name
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0)
                for name in ([ast.alias(node.module)] if isinstance(node, ast.ImportFrom) else node.names)
            ]
            assert [name for name in absolute if within(name, "fastrnn") or within(name, "kernels")] == [], module


def test_the_hash_of_the_sources_covers_all_that_cpu_kernels_are_made_from():
    """`disk_cache.source_hash` reads the folder it lies in, without those below."""
    reached, more = set(), {"fastrnn.kernels.compiled"}
    while more:
        module = more.pop()
        reached.add(module)
        more |= {name for name in imported_by(module) if name in SOURCES and name not in reached}
    assert len(reached) > 10
    assert {SOURCES[module].parent for module in reached} == {ROOT / "kernels"}


def test_kernels_need_numba_and_numpy_only():
    roots = {each.imported.partition(".")[0] for each in ALL if within(each.module, "fastrnn.kernels")}
    assert roots - sys.stdlib_module_names <= {"fastrnn", "numba", "llvmlite", "numpy", "cupy"}


def test_the_formulas_are_plain_python():
    for module in ("fastrnn.kernels.cells", "fastrnn.kernels.functions"):
        outside = {name for name in imported_by(module) if name.partition(".")[0] not in sys.stdlib_module_names}
        assert outside <= {"fastrnn.kernels.functions"}, module


def test_the_reference_imports_numpy_only():
    """It judges the kernels, and shares nothing with them."""
    roots = {name.partition(".")[0] for name in imported_by("fastrnn.reference")}
    assert roots - sys.stdlib_module_names == {"numpy"}


def test_layers_reach_the_backends_through_sequence():
    backends = ("fastrnn.reference", "fastrnn.cpu", "fastrnn.kernels")
    subpackages = ("fastrnn.experiments", "fastrnn.interchange")
    for module in ("fastrnn", "fastrnn.layers", "fastrnn.parameters", "fastrnn.validation", *subpackages):
        inside = [m for m in SOURCES if m == module or (module in subpackages and within(m, module))]
        for each in inside:
            found = {name for name in imported_by(each) if any(within(name, b) for b in backends)}
            # the table of cells is plain Python, and says how many gates they have
            assert found == ({"fastrnn.kernels.cells"} if each == "fastrnn.parameters" else set()), each
    assert {"fastrnn.reference", "fastrnn.cpu"} <= imported_by("fastrnn.sequence")
    # which keeps Ctrl-C from the first import of Numba
    assert [name for name in imported_by("fastrnn.sequence") if within(name, "fastrnn.kernels")] == [
        "fastrnn.kernels.interrupts"
    ]


def test_no_module_imports_itself_in_a_circle():
    graph = {module: sorted({n for n in imported_by(module) if n in SOURCES and n != "fastrnn"}) for module in SOURCES}
    done = set()

    def visit(module, path):
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for imported in graph[module]:
                visit(imported, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_numbas_cuda_is_imported_by_the_cuda_kernels_only():
    wrong = [e for e in ALL if within(e.imported, "numba.cuda") and not within(e.module, "fastrnn.kernels.cuda")]
    assert wrong == []


def test_optional_packages_are_imported_where_they_are_used():
    wrong = [
        each
        for each in ALL
        if each.imported.partition(".")[0] in OPTIONAL
        and not each.late
        and not any(within(each.module, adapter) for adapter in ADAPTERS)
    ]
    assert wrong == []


def test_nobody_imports_the_kernels_as_a_top_level_package():
    others = [path for folder in ("tests", "bench") for path in sorted((ROOT / folder).rglob("*.py"))]
    everywhere = ALL + [each for path in others for each in imports(f"{path.parent.name}.{path.stem}", path)]
    assert len(everywhere) > len(ALL)
    assert [each for each in everywhere if within(each.imported, "kernels")] == []


def test_converters_are_imported_when_they_are_used(tmp_path):
    show = "import sys, fastrnn; print(*(m for m in sys.modules if m.startswith('fastrnn.interchange')))"
    done = subprocess.run([sys.executable, "-c", show], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_all_public_names_exist():
    assert len(set(fastrnn.__all__)) == len(fastrnn.__all__)
    assert set(fastrnn.__all__) <= set(dir(fastrnn))
    for name in fastrnn.__all__:
        assert getattr(fastrnn, name) is getattr(fastrnn, name)
    with pytest.raises(AttributeError, match=r"^module 'fastrnn' has no attribute 'to_nothing'$"):
        fastrnn.to_nothing  # noqa: B018


@pytest.mark.parametrize(
    "program",
    [
        "import fastrnn",
        "import fastrnn.reference",
        "import fastrnn, numpy; fastrnn.LSTM(2, 3, backend='reference')(numpy.zeros((1, 1, 2), 'f'))",
        "import fastrnn; fastrnn.LSTM(2, 3).state_dict(); fastrnn.get_num_threads()",
        "import fastrnn; fastrnn.to_keras_weights(fastrnn.LSTM(2, 3))",
        "from fastrnn import *",
        "import fastrnn.__main__",
    ],
)
def test_what_needs_no_kernels_imports_no_numba(program, tmp_path):
    show = f"{program}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", show], cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "fastrnn" in loaded
    assert loaded & {"numba", "llvmlite", *OPTIONAL} == set()


def test_kernels_are_installed_below_the_package_only(tmp_path):
    program = "import importlib.util as u; print(u.find_spec('kernels'), u.find_spec('fastrnn.kernels') is not None)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "True"]


def listed(key):
    """The strings of the first list of that name in pyproject.toml; Python 3.10 has no parser for it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    strings = re.search(rf"^{key} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
    return re.findall(r'"(.*?)"', strings[1])


def test_numba_and_numpy_are_all_that_must_be_installed():
    assert sorted(re.split(r"[<>=!~ \[]", name)[0] for name in listed("dependencies")) == ["numba", "numpy"]


def test_every_package_is_in_the_wheel():
    packages = {module: path.parent for module, path in SOURCES.items() if path.name == "__init__.py"}
    assert set(listed("packages")) == set(packages)
    assert {path.parent for path in SOURCES.values()} == set(packages.values())
