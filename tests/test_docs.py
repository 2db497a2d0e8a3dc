"""What README.md and docs/ say: their examples run, their errors come, and what they link to and name exists."""

import re
import shlex
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from bench.report import markers
from fastrnn.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("fastrnn", "kernels", "tests", "bench", "docs")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read(page):
    return page.read_text(encoding="utf-8")


def blocks(page, language):
    """The code blocks of that language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", read(page), re.M | re.S)


def prose(page):
    """The page without its code blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", read(page), flags=re.M | re.S)


def anchors(page):
    """The names that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# The examples


@pytest.fixture(scope="module")
def example():
    """What the README's Python blocks leave behind, run one after the other."""
    namespace = {}
    for block in blocks(README, "python"):
        exec(block, namespace)
    return namespace


def test_the_readmes_python_does_what_its_comments_say(example):
    lstm, x = example["lstm"], example["x"]
    assert example["y"].shape == (20, 8, 64)
    assert example["h_n"].shape == example["c_n"].shape == (2, 8, 64)
    y, _ = lstm(x)
    assert np.mean(y**2) < np.mean(example["y"] ** 2)  # it was a step downhill
    padded, lengths = example["y_padded"], example["lengths"]
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(padded[:length, row], y[:length, row])
        assert not padded[length:, row].any()
    assert example["y_t"].tobytes() == y[-1, 0].tobytes()
    out = np.empty(64, "float32")
    assert example["stream"].step(x[0, 0], out=out) is out
    assert out.tobytes() == y[0, 0].tobytes()


def errors(page):
    """(expression, type, message) of each error shown."""
    shown = re.findall(r"^>>> (.+)\n(\w+): (.+)$", "".join(blocks(page, "pycon")), re.M)
    assert 3 * len(shown) == sum(block.count("\n") + block.count(">>> ") for block in blocks(page, "pycon"))
    return shown


@pytest.mark.parametrize(("expression", "kind", "message"), errors(README))
def test_the_errors_shown_are_those_that_come(example, expression, kind, message):
    with pytest.raises(Exception, match=f"^{re.escape(message)}$") as raised:
        eval(expression, example)
    assert raised.type.__name__ == kind
    assert f"| `{kind}` |" in read(README)


def test_the_command_line_refuses_as_shown(capsys):
    (block,) = blocks(README, "console")
    command, *expected = block.splitlines()
    words = shlex.split(command)
    assert words[:4] == ["$", "python", "-m", "fastrnn"]
    with pytest.raises(SystemExit, match=r"^2$"):
        main(words[4:])
    assert capsys.readouterr().err.splitlines()[-len(expected) :] == expected


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # Keras, of itself
def test_the_examples_of_interchange_do_what_they_say(keras, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for module in ("onnx", "onnxruntime", "safetensors"):
        pytest.importorskip(module)
    example = {}
    for block in blocks(ROOT / "docs" / "interchange.md", "python"):
        exec(block, example)
    x = example["x"]
    y, (h_n, c_n) = example["lstm"](x)
    for name, expected in {"y": y, "h_n": h_n, "c_n": c_n}.items():
        np.testing.assert_allclose(example[name], expected, atol=1e-5)
    for name, expected in {"Y_h": h_n, "Y_c": c_n}.items():
        np.testing.assert_allclose(example[name], expected[:2], atol=1e-5)
    assert example["Y"].shape == (20, 2, 3, 16)
    for name, array in example["again"].state_dict().items():
        np.testing.assert_array_equal(example["lstm"].parameters[name], array)
    expected = example["upper"](example["lower"](x)).detach().numpy()
    np.testing.assert_allclose(example["gru"](x)[0], expected, atol=1e-5)


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "pytorch.md"], ids=lambda page: page.name)
def test_the_examples_of_pytorch_print_what_their_comments_say(page, capsys):
    pytest.importorskip("torch")
    examples = [block for block in blocks(page, "python") if "fastrnn.torch" in block]
    expected = re.findall(r"^print\(.+\)  # (swapped .+)$", "".join(examples), re.M)
    namespace = {}
    for block in examples:
        exec(block, namespace)
    assert len(expected) == 1
    assert capsys.readouterr().out.splitlines() == expected


# The commands


def test_both_commands_install_extras_that_exist():
    install = "python3 -m venv .venv && . .venv/bin/activate && pip install -e"
    commands = "".join(blocks(README, "sh"))
    assert f"{install} '.[cli]' && python -m fastrnn demo\n" in commands
    assert f"{install} '.[test,cli]' && pytest\n" in commands
    assert named_extras(README) == {"cli", "test", "bench", "cuda", "torch"}


def named_extras(page):
    return {extra for each in re.findall(r"\.\[([\w,]+)\]", read(page)) for extra in each.split(",")}


@every_page
def test_extras_exist(page):
    table = re.search(r"^\[project\.optional-dependencies\]\n(.*?)^\[", read(ROOT / "pyproject.toml"), re.M | re.S)[1]
    assert named_extras(page) <= set(re.findall(r"^(\w+) = ", table, re.M))


def test_ci_installs_and_runs_what_the_readme_does():
    script = read(ROOT / ".ci" / "run")
    assert {"test", "cli"} <= set(re.search(r"pip install .*'\.\[([\w,]+)\]'", script)[1].split(","))
    assert re.search(r"^pytest$", script, re.M)


@every_page
def test_commands_exist(page):
    named = set(re.findall(r"python -m fastrnn (\w+)", read(page)))
    assert named <= set(COMMANDS)
    if page == README:
        assert named == set(COMMANDS)
        assert all(find_spec(module) for module, _ in COMMANDS.values())
    for module in re.findall(r"python -m (bench[.\w]*)", read(page)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_options_of_the_bench_exist():
    options = set(re.findall(r"python -m bench.*?(--[\w-]+)", read(README)))
    source = read(ROOT / "bench" / "__main__.py")
    assert [option for option in options if f'"{option}"' not in source] == []


# What is linked to and named


@every_page
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@every_page
def test_files_named_exist(page):
    there = {file.name for folder in FOLDERS for file in (ROOT / folder).rglob("*.*")}
    named = re.findall(r"`([\w./]+\.(?:py|md|svg|toml|json))`", prose(page))
    assert [name for name in named if name not in there and not (ROOT / name).exists()] == []


def test_the_picture_shows_modules_that_exist():
    picture = ElementTree.parse(ROOT / "docs" / "architecture.svg")
    names = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text") if text.get("class") == "name"]
    assert len(names) > 15
    folders = ("fastrnn", "kernels")
    assert [name for name in names if not any((ROOT / folder / f"{name}.py").exists() for folder in folders)] == []


# What is generated, and what is not typed


def test_the_readme_shows_every_machine_measured():
    pages = [page for page in PAGES if "\n## All points\n" in read(page)]
    assert len(pages) > 1
    for page in pages:
        begin, end = markers(page.stem)
        assert read(README).count(begin) == read(README).count(end) == 1
        assert f"](docs/{page.name})" in read(README).partition(begin)[2].partition(end)[0]


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "docs/mathematics.md", "docs/architecture.md"])
def test_no_figure_of_speed_is_typed_by_hand(name):
    text = re.sub(r"<!-- ([\w-]+):begin -->.*?<!-- \1:end -->", "", read(ROOT / name), flags=re.S)
    assert re.findall(r"\b\d[\d.,]*\s?(?:x|ms|µs|us|ns|[GT]FLOP\S*|GB/s|times)(?![\w-])", text) == []


def test_formulas_are_whole():
    page = ROOT / "docs" / "mathematics.md"
    displayed = blocks(page, "math")
    inline = re.findall(r"\$([^$]+)\$", re.sub(r"`[^`]*`", "", prose(page)))
    assert prose(page).count("$") == 2 * len(inline)
    for formula in (*displayed, *inline):
        assert formula.count("{") == formula.count("}"), formula
        assert formula.count(r"\begin{") == formula.count(r"\end{"), formula
    # GitHub may take these for Markdown before it sees the formula
    assert [formula for formula in inline if re.search(r"[^\w\s]_|\\[^a-zA-Z]|\*", formula)] == []
