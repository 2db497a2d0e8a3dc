"""`python -m fastrnn` and its command `demo`: what they print, write, refuse, and do on Ctrl-C."""

import io
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import fastrnn
from fastrnn import threads
from fastrnn.__main__ import main
from fastrnn.commands import display
from fastrnn.experiments import demo, text
from fastrnn.experiments.character_model import CharacterModel
from fastrnn.experiments.training import train

TEXT = "the cat sat on the mat, and that was that: the end [of it] … or not.\n" * 20
SMALL = ("--hidden", "8", "--batch", "4", "--steps", "8", "--seconds", "0.2", "--sample-length", "50")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A short text, and nothing changed in this process that outlasts a test."""
    monkeypatch.setattr(text, "language_reference", lambda: TEXT)
    monkeypatch.setattr(demo, "use_one_thread", lambda: True)
    monkeypatch.setattr(threads._pool, "number", threads._pool.number)


def run(*options):
    return main(["demo", *SMALL, *options])


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, encoding="utf-8", timeout=100, check=False, **options
    )


# The command line


def test_help_lists_the_commands_and_imports_none(capsys):
    code = """
import sys, fastrnn.__main__ as command_line
try:
    command_line.main(["--help"])
finally:
    heavy = ("numba", "rich", "fastrnn.experiments.demo", "fastrnn.commands.check")
    print([name for name in heavy if name in sys.modules])
"""
    finished = python("-c", code)
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"^ +demo +train", finished.stdout, re.M)
    assert re.search(r"^ +check +compare", finished.stdout, re.M)
    assert finished.stdout.endswith("[]\n")


EXITING = """
import atexit, runpy, signal
atexit.register(signal.raise_signal, signal.SIGINT)
runpy.run_module("fastrnn", run_name="__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there the signal ends the process")
def test_ctrl_c_after_the_end_changes_nothing():
    finished = python("-c", EXITING, "--version")
    assert (finished.returncode, finished.stderr) == (0, "")


def test_version():
    finished = python("-m", "fastrnn", "--version")
    assert (finished.returncode, finished.stdout) == (0, f"fastrnn {fastrnn.__version__}\n")


def test_help_of_the_demo_names_every_default(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["demo", "--help"])
    output = capsys.readouterr().out
    for name, value in demo.TRAINING.items():
        assert re.search(rf"--{name} .*?\({value:g}\)" if name != "cell" else r"--cell .*?\(lstm\)", output, re.S)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["train"], "argument command: invalid choice: 'train'"),
        (["demo", "--cell", "qrnn"], "argument --cell: invalid choice: 'qrnn'"),
        (["demo", "--hidden", "0"], "argument --hidden: expected an integer of at least 1, got '0'"),
        (["demo", "--hidden", "eight"], "argument --hidden: expected an integer of at least 1, got 'eight'"),
        (["demo", "--batch", "4", "--hidden", "9" * 12], "--hidden, --layers: no such model can be made: "),
        (["demo", "--layers", "-1"], "argument --layers: expected an integer of at least 1, got '-1'"),
        (["demo", "--batch", "1.5"], "argument --batch: expected an integer of at least 1, got '1.5'"),
        (
            ["demo", "--batch", "100", "--steps", "100"],
            "--batch, --steps: 100 texts of 100 steps need 10001 characters",
        ),
        (["demo", "--seconds", "0"], "argument --seconds: expected a number above 0, got '0'"),
        (["demo", "--seconds", "inf"], "argument --seconds: expected a number above 0, got 'inf'"),
        (["demo", "--seconds", "soon"], "argument --seconds: expected a number above 0, got 'soon'"),
        (["demo", "--seed", "-1"], "argument --seed: expected an integer of at least 0, got '-1'"),
        (["demo", "--threads", "0"], "argument --threads: expected an integer of at least 1, got '0'"),
        (["demo", "--temperature", "-0.1"], "argument --temperature: expected a number of at least 0, got '-0.1'"),
        (["demo", "--temperature", "nan"], "argument --temperature: expected a number of at least 0, got 'nan'"),
        (["demo", "--sample-length", "0"], "argument --sample-length: expected an integer of at least 1, got '0'"),
        (["demo", "--save", "{tmp}/no/model.npz"], "argument --save: there is no folder '{tmp}/no'"),
        (["demo", "--save", "{tmp}/text/model.npz"], "argument --save: there is no folder '{tmp}/text'"),
        (["demo", "--save", "{tmp}"], "argument --save: expected a file, got the folder '{tmp}'"),
        (["demo", "--save", ""], "argument --save: expected a file, got ''"),
        (["demo", "--sample-from", "{tmp}/no"], "argument --sample-from: '{tmp}/no': No such file or directory"),
        (["demo", "--sample-from", "{tmp}"], "argument --sample-from: '{tmp}': Is a directory"),
        (["demo", "--sample-from", "{tmp}/text"], "argument --sample-from: '{tmp}/text' is not a model that --save"),
        (["demo", "--sample-from", "{tmp}/text", "--cell", "gru"], "argument --cell: not allowed with --sample-from"),
        (["demo", "--sample-from", "{tmp}/text", "--save", "a"], "argument --save: not allowed with --sample-from"),
    ],
)
def test_wrong_arguments_are_refused(arguments, reason, tmp_path, capsys):
    (tmp_path / "text").write_text("not a model")
    with pytest.raises(SystemExit, match=r"^2$"):
        main([argument.format(tmp=tmp_path) for argument in arguments])
    captured = capsys.readouterr()
    assert f"error: {reason.format(tmp=tmp_path)}" in captured.err
    assert captured.out == ""


def test_without_a_command_the_commands_are_listed(capsys):
    assert main([]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert [name for name in ("demo", "check", "warmup", "compare") if f"\n    {name}" not in errors] == []


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there no file can be made")
def test_where_no_file_can_be_made_is_said_before_the_training(capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["demo", "--save", "/proc/model.npz"])
    assert "error: argument --save: the folder '/proc' cannot be written to: " in capsys.readouterr().err
    assert demo._new_file("/dev/null") == "/dev/null"


def test_a_python_without_the_text_is_refused(monkeypatch, capsys):
    def missing():
        raise ImportError

    monkeypatch.setattr(text, "language_reference", missing)
    with pytest.raises(SystemExit, match=r"^2$"):
        run()
    assert "this Python lacks its language reference" in capsys.readouterr().err


# Training and sampling


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_demo_trains_compares_and_writes(cell, capsys):
    assert run("--cell", cell, "--layers", "2") == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert re.search(rf"^{cell.upper()}, 2 layers of 8 units, [\d,]+ parameters, \d+ threads?$", output, re.M)
    assert re.search(r"^Training 100%  \d\.\d{3} bits/char  [\d,]+ chars/s$", output, re.M)
    for name in ("unigram", "trigram", cell):
        assert re.search(rf"^  {name} +\d\.\d{{3}}  #+$", output, re.M)
    assert output.count("\n  | ") >= 1


def test_demo_in_a_process_of_its_own_writes_no_control_characters():
    """On the real text, and where the encoding has only ASCII."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "TERM": "xterm"}
    finished = python("-m", "fastrnn", "demo", *SMALL, env=environment)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert set(finished.stdout) <= {chr(code) for code in range(32, 127)} | {"\n"}
    assert float(re.search(r"trigram +([\d.]+)", finished.stdout)[1]) > 2


def test_a_saved_model_samples_the_same_passage(tmp_path, capsys):
    path = tmp_path / "my model"
    assert run("--save", str(path)) == 0
    trained = capsys.readouterr().out
    assert f"The model is saved: python -m fastrnn demo --sample-from '{path}'\n" in trained
    assert main(["demo", "--sample-length", "50", "--sample-from", str(path)]) == 0
    sampled = capsys.readouterr().out
    assert sampled.startswith("LSTM, 1 layer of 8 units")
    assert "What it writes, at temperature 0.7\n" in sampled
    assert trained.endswith(sampled[sampled.index("\n") :])
    assert main(["demo", "--sample-length", "50", "--sample-from", str(path), "--seed", "1"]) == 0
    assert capsys.readouterr().out != sampled


def test_a_model_that_cannot_be_saved_is_still_shown(tmp_path, monkeypatch, capsys):
    def full(model, path):
        raise OSError("no space left")

    monkeypatch.setattr(CharacterModel, "save", full)
    assert run("--save", str(tmp_path / "model")) == 1
    output, errors = capsys.readouterr()
    assert errors == "The model could not be saved: no space left\n"
    assert "What it writes" in output


def test_threads_are_set():
    assert run("--threads", "1") == 0
    assert threads.get_num_threads() == 1


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_training_that_diverges_says_so(monkeypatch, capsys):
    monkeypatch.setitem(demo.LEARNING_RATE, "lstm", np.inf)
    assert run() == 1
    assert re.match(r"The training diverged: update \d+: loss nan", capsys.readouterr().err)


# Ctrl-C


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C after the third update."""

    def training(*arguments, **options):
        for progress in train(*arguments, **options):
            if progress.update == 3:
                signal.raise_signal(signal.SIGINT)
            yield progress

    monkeypatch.setattr(demo, "train", training)


@pytest.mark.usefixtures("interrupted")
def test_an_interrupt_ends_the_training_and_saves_the_model(tmp_path, capsys):
    path = tmp_path / "model"
    handler = signal.getsignal(signal.SIGINT)
    assert run("--seconds", "60", "--save", str(path)) == 130
    output, errors = capsys.readouterr()
    assert errors == ""
    assert "Interrupted after 0 s\nThe model so far is saved: python -m fastrnn demo --sample-from" in output
    assert "trigram" in output
    assert "What it writes" in output
    assert signal.getsignal(signal.SIGINT) is handler
    assert CharacterModel.load(path).vocabulary.characters == text.Vocabulary(TEXT).characters


@pytest.mark.usefixtures("interrupted")
def test_a_second_interrupt_ends_the_program(tmp_path, monkeypatch, capsys):
    def interrupt(*arguments):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(demo, "_held_out_bits", interrupt)
    path = tmp_path / "model"
    assert run("--seconds", "60", "--save", str(path)) == 130
    assert capsys.readouterr().err == "Interrupted\n"
    assert path.exists()


def test_an_interrupt_before_the_training_ends_the_program(tmp_path, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(CharacterModel, "warm_up", interrupt)
    assert run("--save", str(tmp_path / "model")) == 130
    assert capsys.readouterr().err == "Interrupted\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send Ctrl-C to one process")
def test_an_interrupted_process_saves_its_model(tmp_path):
    path = tmp_path / "model"
    command = [sys.executable, "-m", "fastrnn", "demo", *SMALL, "--seconds", "10", "--save", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        for line in process.stdout:
            if line.startswith("Training"):  # a tenth of the time is over
                process.send_signal(signal.SIGINT)
                break
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert "The model so far is saved" in output
    assert path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of Unix")
def test_a_reader_that_goes_away_is_no_error(tmp_path):
    path = tmp_path / "model"
    run("--save", str(path))
    with subprocess.Popen(
        [sys.executable, "-m", "fastrnn", "demo", "--sample-from", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


# The display


def rich_console():
    console = pytest.importorskip("rich.console")
    return console.Console(record=True, width=100, file=io.StringIO(), force_terminal=True, highlight=False)


def show_everything(show):
    show.say("A line [bold]as it is[/bold]")
    with show.waiting("Waiting"):
        pass
    with show.progress("Training") as report:
        for k in range(1, 101):
            report(k / 100, f"{2 + 1 / k:.3f} bits/char  81,234 chars/s", 60 - 0.6 * k)
    show.chart("Bits", {"unigram": 4.5, "lstm": 1.5})
    show.passage("What it writes", "a [bold]list[/bold]\n\n  of it")


def test_rich_display():
    console = rich_console()
    show_everything(display.RichDisplay(console))
    lines = [line.strip() for line in console.export_text().splitlines()]
    assert lines[0] == "A line [bold]as it is[/bold]"
    assert any(re.search(r"Training ━+ 100% 2\.010 bits/char  81,234 chars/s 0 s left$", line) for line in lines)
    bars = {line.split()[0]: line.split()[-1] for line in lines if "█" in line}
    assert {name: len(bar) for name, bar in bars.items()} == {"unigram": 30, "lstm": 10}
    assert any("a [bold]list[/bold]" in line for line in lines)


@pytest.mark.parametrize("width", [20, 40, 200])
def test_a_table_in_a_narrow_terminal_cuts_no_number_off(width):
    console = pytest.importorskip("rich.console").Console(width=width, file=io.StringIO(), force_terminal=True)
    display.RichDisplay(console).table("T", ["cell", "when", "loss"], [["LSTM", "start", "4.31e-05 (9.25e-11)"]], 2)
    shown = re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue())
    assert "…" not in shown
    assert set("4.31e-05") <= set(shown)
    if width == 200:
        assert re.search(r"^LSTM +start +4\.31e-05 \(9\.25e-11\)$", shown.replace(" \n", "\n"), re.M)


@pytest.mark.parametrize("redraw", [True, False])
def test_plain_display(redraw):
    stream = io.StringIO()
    show_everything(display.PlainDisplay(stream, redraw))
    output = stream.getvalue()
    assert "\x1b" not in output
    assert ("\r" in output) is redraw
    lines = [line.rpartition("\r")[2] for line in output.splitlines()]
    assert lines[0] == "A line [bold]as it is[/bold]"
    assert re.fullmatch(r"Waiting \.\.\. \d+\.\d s", lines[1])
    assert lines[-8:] == [
        "Bits",
        "  unigram   4.500  ##############################",
        "  lstm      1.500  ##########",
        "",
        "What it writes",
        "  | a [bold]list[/bold]",
        "  |",
        "  |   of it",
    ]


def test_plain_progress_fits_in_the_terminal(monkeypatch):
    monkeypatch.setattr(display, "_columns", lambda stream: 40)
    stream = io.StringIO()
    show_everything(display.PlainDisplay(stream, redraw=True))
    drawn = [line for line in re.split(r"[\r\n]", stream.getvalue()) if line.startswith("Training [")]
    assert drawn[-1] == "Training [######] 100%  2.010 bits/char"
    assert max(map(len, drawn)) < 40


@pytest.mark.parametrize("width", [20, 30, 40, 50, 60, 80])
def test_progress_in_a_narrow_terminal_cuts_no_number_off(width, monkeypatch):
    monkeypatch.setattr(display, "_columns", lambda stream: width)
    plain = io.StringIO()
    show_everything(display.PlainDisplay(plain, redraw=True))
    console = rich_console()
    console.width = width
    show_everything(display.RichDisplay(console))
    for shown_there in (plain.getvalue(), console.export_text()):
        last = re.findall(r"Training [^\r\n]*100%[^\r\n]*", shown_there)[-1]
        _, _, figures = last.partition("100%")
        shown = re.sub(r" +", " ", figures.strip())
        assert "2.010 bits/char 81,234 chars/s 0 s left".startswith(shown)
        assert not shown or shown.endswith(("char", "chars/s", "left"))
        assert width < 40 or shown
        assert re.search(r"[#━]{3}", last)


@pytest.mark.parametrize("columns", [10, 20, 40, 60])
@pytest.mark.parametrize("rich", [False, True])
def test_charts_fit_in_the_terminal(rich, columns, monkeypatch):
    stream = io.StringIO()
    if rich:
        console = rich_console()
        console.file, console.width = stream, columns
        show = display.RichDisplay(console)
    else:
        monkeypatch.setattr(display, "_columns", lambda stream: columns)
        show = display.PlainDisplay(stream, redraw=True)
    show.chart("Bits", {"unigram": 4.5, "lstm": 2.25})
    long, short = [sum(map(line.count, "█#")) for line in stream.getvalue().splitlines()[-2:]]
    assert long == max(1, min(30, columns - (18 if rich else 19)))
    assert short == round(long / 2)


@pytest.mark.parametrize(("columns", "shown"), [(9, 1), (20, 2), (30, 3), (100, 3)])
def test_a_live_table_leaves_out_the_columns_for_which_there_is_no_room(columns, shown):
    console = rich_console()
    console.width = columns
    names, cells = ["task", "contender", "progress"], ["parity", "LSTM", "########"]
    with display.RichDisplay(console).live() as live:
        live.show("Two of 3", names, [cells])
    text = console.export_text()
    assert [name in text for name in names] == [cell in text for cell in cells] == [n < shown for n in range(3)]
    assert "…" not in text


@pytest.mark.parametrize(
    ("terminal", "term", "plain", "rich", "expected"),
    [
        (True, "xterm", False, True, "rich"),
        (True, "xterm", True, True, "redrawn"),
        (True, "xterm", False, False, "redrawn"),
        (True, "dumb", False, True, "lines"),
        (False, "xterm", False, True, "lines"),
    ],
)
def test_the_best_display(terminal, term, plain, rich, expected, monkeypatch):
    if rich:
        pytest.importorskip("rich")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(display, "find_spec", lambda name: rich or None)
    show = display.best_display(plain)
    kind = "rich" if isinstance(show, display.RichDisplay) else "redrawn" if show.redraw else "lines"
    assert kind == expected
