"""What a comparison makes of its results: verdicts, tables, plots, and the page in the documentation."""

import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastrnn.commands.display import PlainDisplay
from fastrnn.experiments.compare import claims, plots, report, results
from fastrnn.experiments.compare.contenders import CONTENDERS
from fastrnn.experiments.compare.results import Cost, Look, Results, Run, Scaled
from fastrnn.experiments.compare.settings import DEFAULT, TASKS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "lstm-vs-gru.md"
BASELINES = {"adding": 1 / 6, "copying": 0.5, "parity": 0.7, "text": 2.6}
SETTINGS = replace(DEFAULT, length=20)  # so that half a sequence is 10 steps


def look(left=0.5, direct=None, **options):
    """A layer that leaves so much of the gradient after 10 steps."""
    lags = [0, 5, 10, 19]
    norms = [left ** (lag / 10) for lag in lags]
    path = None if direct is None else [direct ** (lag / 10) for lag in lags]
    return Look(lags, norms, left**0.1, None if left >= 1 else 7.0, direct=path, **options)


def run(task, contender, seed=0, loss=1e-3, updates=500, start=0.5, trained=0.5, erased=None, direct=0.5):
    """A run that is below `loss` from that update on."""
    curve = [0, updates - 1, updates, 1000], [BASELINES[task], BASELINES[task], loss, loss]
    looks = look(start, start), look(trained, direct)
    return Run(task, contender, seed, 64, 1000, 900, 1.0, *curve, loss, None, erased or {}, *looks)


def scaled(radius, rest, driven, matrix="random", seed=0):
    lags, norms = [0, 1], [1.0, 0.9]
    return [
        Scaled(seed, matrix, radius, False, rest, None, None, lags, norms),
        Scaled(seed, matrix, radius, True, driven, driven + 0.01, radius, lags, norms),
    ]


def cost(parameters=100, training=1.0, state_bytes=256, arrays=1):
    return Cost(64, parameters, training, training / 3, training / 10, arrays + 1, arrays, state_bytes)


COSTS = {"gru": cost(75, 0.75), "lstm": cost(100, 1.0, 512, 2)}


def made_up(runs=(), scaled=(), costs=None):
    machine = {"cpu": "Made up", "processors": 2, "fastrnn": "0", "python": "3", "numpy": "2"}
    machine |= {"numba": "0", "commit": "c0ffee", "date": "2000-01-01"}
    return Results(SETTINGS, list(runs), list(scaled), costs or {}, BASELINES, machine, [])


def verdict(letter, found):
    (claim,) = (claim for claim in claims.claims(found) if claim.letter == letter)
    return claim.verdict, [test.holds for test in claim.tests]


# Verdicts


@pytest.mark.parametrize(
    ("holds", "expected"),
    [
        ([True, True], claims.SUPPORTED),
        ([False, False], claims.REFUTED),
        ([True, False], claims.MIXED),
        ([True, None], claims.UNDECIDED),
        ([False, None], claims.UNDECIDED),
        ([True, False, None], claims.MIXED),
        ([None], claims.UNDECIDED),
    ],
)
def test_a_verdict_is_made_of_tests(holds, expected):
    claim = claims.Claim("x", "A claim.", [claims.Test("a test", each, "1") for each in holds])
    assert claim.verdict == expected
    assert claim.summary.startswith(f"{expected}: {holds.count(True)} of {len(holds) - holds.count(None)} tests hold")
    assert ("not judged" in claim.summary) == (None in holds)


def test_a_test_of_who_solved_a_task_says_so_where_nobody_did():
    runs = [run("adding", name, loss=0.9 * BASELINES["adding"]) for name in ("gru", "lstm", "lstm-default")]
    found = claims.claims(made_up(runs))
    reasons = {claim.letter: [test.numbers for test in claim.tests if test.holds is None] for claim in found}
    unsolved = "nothing to judge by, for adding was not solved"
    assert reasons["c"] == [unsolved, f"{unsolved} by most seeds", "not measured"]  # the last one is of the text
    assert reasons["e"] == ["not measured"] * 2 + [unsolved] * 3  # the first two are of costs
    assert reasons["d"].count(unsolved) == 1


def test_several_tasks_that_nobody_solved_are_named_together():
    runs = [run(task, name, loss=BASELINES[task]) for task in ("adding", "copying") for name in ("gru", "lstm")]
    reasons = [test.numbers for claim in claims.claims(made_up(runs)) for test in claim.tests]
    assert any("for adding and copying were not solved" in reason for reason in reasons)


def test_only_tasks_are_solved_below_a_loss():
    assert results.solved_at("adding", BASELINES) == 0.01
    assert results.solved_at("parity", BASELINES) == pytest.approx(0.07)
    assert results.solved_at("text", BASELINES) is None
    assert results.solved_at("scaled matrices", BASELINES) is None


def test_nothing_measured_decides_nothing():
    for claim in claims.claims(made_up()):
        assert {test.holds for test in claim.tests} == {None}


@pytest.mark.parametrize(
    ("rest", "driven", "expected", "tests"),
    [
        ({0.8: 0.8, 1.2: 1.2}, {0.8: 0.8, 1.2: 1.19}, "supported", [True] * 4),
        ({0.8: 0.8, 1.2: 1.2}, {0.8: 0.75, 1.2: 1.05}, "mixed", [True, True, True, False]),
        ({0.8: 0.8, 1.2: 1.2}, {0.8: 0.75, 1.2: 1.005}, "mixed", [True, True, False, False]),
        ({0.8: 0.9, 1.2: 1.2}, {0.8: 0.995, 1.2: 0.9}, "not supported", [False] * 4),
    ],
)
def test_claim_a_follows_decay_and_radius(rest, driven, expected, tests):
    rows = [row for radius in rest for row in scaled(radius, rest[radius], driven[radius])]
    assert verdict("a", made_up(scaled=rows)) == (expected, tests)


def gradient_runs(rnn, gru, lstm, start):
    return [
        run("adding", name, seed, start=start, trained=left, direct=left)
        for name, left in (("rnn", rnn), ("gru", gru), ("lstm", lstm))
        for seed in range(3)
    ]


@pytest.mark.parametrize(
    ("rnn", "gru", "lstm", "start", "expected"),
    [
        (0.001, 0.3, 0.3, 0.3, "supported"),
        (0.001, 0.3, 0.3, 1e-9, "mixed"),
        (0.3, 1e-4, 1e-4, 1e-9, "not supported"),
        (0.3, 0.3, 0.3, 0.3, "mixed"),
    ],
)
def test_claim_b_follows_the_gradients(rnn, gru, lstm, start, expected):
    assert verdict("b", made_up(gradient_runs(rnn, gru, lstm, start)))[0] == expected


def test_most_seeds_decide():
    two_of_three = [run("adding", "gru", seed, trained=0.5 if seed else 1e-6) for seed in range(3)]
    one_of_three = [run("adding", "gru", seed, trained=1e-6 if seed else 0.5) for seed in range(3)]
    assert verdict("b", made_up(two_of_three))[1][0] is True
    assert verdict("b", made_up(one_of_three))[1][0] is False
    assert not claims.most([True, False])


def test_half_the_seeds_decide_neither_way():
    half = [run("adding", "rnn", seed, trained=0.5 if seed else 1e-6) for seed in range(2)]
    (claim,) = (claim for claim in claims.claims(made_up(half)) if claim.letter == "b")
    (lost,) = (test for test in claim.tests if test.text.startswith("plain RNN"))
    assert lost.holds is False


def forget_bias_runs(loss, updates, start, bits):
    """With and without forget bias 1: pairs."""
    return [
        each
        for k, name in enumerate(("lstm", "lstm-default"))
        for each in (
            run("adding", name, loss=loss[k], updates=updates[k], start=start[k]),
            run("text", name, loss=bits[k]),
        )
    ]


@pytest.mark.parametrize(
    ("loss", "updates", "start", "bits", "tests"),
    [
        ((1e-3, 0.16), (300, 300), (0.1, 1e-9), (2.1, 2.2), [True, True, True, True]),
        ((1e-3, 1e-3), (300, 500), (1e-4, 1e-9), (2.2, 2.2), [False, False, True, False]),
        ((1e-3, 1e-3), (490, 500), (1e-4, 1e-9), (2.2, 2.1), [False, False, False, False]),
        ((0.16, 1e-3), (300, 300), (0.1, 0.1), (2.2, 2.1), [False, False, False, False]),
        ((0.16, 0.16), (300, 300), (0.1, 1e-9), (2.1, 2.2), [True, None, None, True]),
    ],
)
def test_claim_c_follows_the_two_lstms(loss, updates, start, bits, tests):
    assert verdict("c", made_up(forget_bias_runs(loss, updates, start, bits)))[1] == tests


@pytest.mark.parametrize(
    ("parameters", "training", "losses", "bits", "tests"),
    [
        (75, 0.75, (1e-3, 1e-3), (2.1, 2.1), [True, True, True, True]),
        (75, 0.75, (1e-3, 0.16), (2.115, 2.1), [True, True, True, True]),
        (100, 0.95, (0.16, 1e-3), (2.2, 2.1), [False, False, False, False]),
        (75, 0.5, (0.16, 0.16), (2.0, 2.1), [True, False, None, True]),
    ],
)
def test_claim_d_follows_costs_and_losses(parameters, training, losses, bits, tests):
    costs = COSTS | {"gru": cost(parameters, training)}
    runs = [run("adding", name, loss=loss) for name, loss in zip(("gru", "lstm"), losses, strict=True)]
    runs += [run("text", name, loss=loss) for name, loss in zip(("gru", "lstm"), bits, strict=True)]
    assert verdict("d", made_up(runs, costs=costs))[1] == tests


@pytest.mark.parametrize(
    ("lstm", "gru", "tests"),
    [
        ({"c": 0.15, "h": 0.01}, {"h": 0.15}, [True, True, True, True, True]),
        ({"c": 0.01, "h": 0.15}, {"h": 0.01}, [True, True, False, False, False]),
    ],
)
def test_claim_e_follows_what_is_erased(lstm, gru, tests):
    runs = [run("adding", "lstm", erased=lstm), run("adding", "gru", erased=gru)]
    assert verdict("e", made_up(runs, costs=COSTS))[1] == tests


def test_what_was_never_learnt_cannot_be_erased():
    runs = [run("adding", "lstm", loss=0.16, erased={"c": 0.16, "h": 0.16})]
    assert verdict("e", made_up(runs, costs=COSTS))[1] == [True, True, None, None, None]


def test_interfaces_that_differ_from_the_claim_refute_it():
    costs = {"gru": cost(75, 0.75, 512, 2), "lstm": cost(100, 1.0, 512, 2)}
    assert verdict("e", made_up(costs=costs))[1][:2] == [False, False]


def test_the_task_with_the_longest_memory_is_the_first_there():
    assert claims.longest_memory(made_up([run("text", "gru"), run("adding", "gru")])) == ("adding", 10)
    assert claims.longest_memory(made_up([run("parity", "gru")])) == ("parity", SETTINGS.parity_length // 2)
    assert claims.longest_memory(made_up([run("text", "gru")])) == ("text", SETTINGS.probe_steps // 2)


def test_numbers_are_shown_with_their_range():
    assert claims.spread([0.5]) == "0.5"
    assert claims.spread([0.25, None, 1.0, 0.5]) == "0.5 (0.25 to 1)"
    assert claims.spread([None]) == "no finite number"


# Results


def complete():
    """Results with all there is, the RNN of one seed diverged."""
    details = {
        "traces": {gate: [[10, 90, 100, 0]] * 3 for gate in ("i", "f", "o", "r", "z")},
        "eigenvalues": {"jacobian": [[0.5, 0.1], [0.9, 0.0]], "matrix": [[1.5, 0.0], [0.2, 0.1]]},
        "marks": [1, 3],
    }
    gates = {"rnn": ("h",), "gru": ("r", "z")}
    runs = []
    for task in TASKS:
        for name in CONTENDERS:
            for seed in range(2):
                each = run(task, name, seed, erased={"h": 0.1, "c": 0.15})
                shares = {gate: {"mean": 0.5, "low": 0.1, "high": 0.2} for gate in gates.get(name, ("i", "f", "o"))}
                seen = look(
                    0.5, None if name == "rnn" else 0.4, gates=shares, memory=3.0, **(details if not seed else {})
                )
                runs.append(replace(each, start=seen, trained=seen))
    diverged = next(k for k, each in enumerate(runs) if each.contender == "rnn" and each.seed)
    runs[diverged] = replace(
        runs[diverged], trained=None, diverged="update 7: loss nan", loss=None, updates=[0], losses=[None]
    )
    rows = [
        row for radius in (0.8, 1.0, 1.2) for m in ("random", "orthogonal") for row in scaled(radius, radius, 0.9, m)
    ]
    costs = {name: COSTS["lstm"] if "lstm" in name else COSTS["gru"] for name in CONTENDERS}
    return replace(made_up(runs, rows, costs), failed=["adding, GRU, seed 9: its process was killed by SIGKILL"])


def test_results_come_back_from_their_file(tmp_path):
    found = complete()
    report.write(tmp_path / "results.json", results.as_json(found))
    assert results.load(tmp_path / "results.json") == found


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": 0}', "{", "3", '{"format": 1, "settings": {}}'])
def test_another_file_is_refused(content, tmp_path):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match="expected the results of a comparison"):
        results.load(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("machine", {"cpu": "one"}),
        ("baselines", {}),
        ("failed", 5),
        ("costs", {"gru": 3}),
        ("runs", [{"task": "adding"}]),
    ],
)
def test_a_file_of_which_a_part_is_missing_is_refused(part, value, tmp_path):
    report.write(tmp_path / "results.json", results.as_json(complete()) | {part: value})
    with pytest.raises(ValueError, match="expected the results of a comparison"):
        results.load(tmp_path / "results.json")


def test_details_are_left_out():
    each = complete().runs[0].without_details()
    assert each.start.traces is each.trained.eigenvalues is each.start.marks is None
    assert each.start.norms == complete().runs[0].start.norms


def test_the_first_update_below_a_limit():
    each = replace(run("adding", "gru"), updates=[0, 10, 20, 30], losses=[1.0, None, 0.009, 0.02])
    assert each.first_below(0.01) == 20
    assert each.first_below(1e-9) is None


# The report


def test_the_report_has_everything(tmp_path, capsys):
    found = complete()
    written = report.write_report(PlainDisplay(sys.stdout, redraw=False), found, tmp_path)
    assert {path.name for path in written} == {
        "report.md", *(f"{name}{suffix}" for name in plots.PLOTS for suffix in (".png", ".svg")),
    }  # fmt: skip
    page, terminal = (tmp_path / "report.md").read_text(), capsys.readouterr().out
    for claim in claims.claims(found):
        assert f"**({claim.letter}) {claim.text}" in page
        assert claim.summary.upper() in terminal
    for name in plots.PLOTS:
        assert f"({name}.png)" in page
    for contender in CONTENDERS.values():
        assert contender.title in page
        assert contender.title in terminal
    assert "adding, GRU, seed 9: its process was killed by SIGKILL" in page
    assert "nan" not in page.lower().replace("finance", "")


def test_every_curve_is_in_the_plot_and_its_legend():
    """One that is in no other panel, and losses far above the baseline."""
    pytest.importorskip("matplotlib")
    high = 2 * BASELINES["text"]
    runs = [replace(run("adding", "rnn"), diverged="loss not finite at update 3"), run("adding", "lstm")]
    runs += [run("text", name, loss=high) for name in ("rnn", "lstm")]
    figure = plots.learning(made_up(runs))
    _, text = figure.axes
    assert text.get_ylim()[1] > high
    (legend,) = figure.legends
    assert [label.get_text() for label in legend.get_texts()] == [CONTENDERS[name].title for name in ("rnn", "lstm")]
    settled = plots.learning(made_up([run("text", "lstm", loss=2.0)]))
    assert settled.axes[0].get_ylim()[1] == pytest.approx(1.5 * BASELINES["text"])


def test_plots_are_pictures_and_the_same_for_the_same_results(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first, second = (plots.draw(complete(), tmp_path / folder) for folder in ("a", "b"))
    for path, again in zip(first, second, strict=True):
        content = path.read_bytes()
        if path.suffix == ".png":
            assert content.startswith(b"\x89PNG")
        else:
            assert ElementTree.fromstring(content).tag.endswith("svg")
        assert len(content) > 5000
        assert again.read_bytes() == content


@pytest.mark.parametrize(
    "part",
    [
        made_up(),
        made_up([run("text", "gru")]),
        made_up([replace(run("adding", "rnn"), trained=None)]),
        made_up(scaled=scaled(0.8, 0.8, 0.7)),
    ],
    ids=["nothing", "text", "diverged", "scaled"],
)
def test_a_part_of_the_results_makes_a_report_too(part, tmp_path, capsys):
    report.write_report(PlainDisplay(sys.stdout, redraw=False), part, tmp_path)
    assert (tmp_path / "report.md").exists()


def grey(colour):
    """Its lightness: luma, 0 to 1."""
    from matplotlib.colors import to_rgb

    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))


def test_contenders_are_told_apart_without_colour():
    assert plots.STYLES.keys() == CONTENDERS.keys()
    styles = list(plots.STYLES.values())
    assert len({str(style.line) for style in styles}) == len({style.marker for style in styles}) == len(styles)
    lightness = sorted(grey(style.colour) for style in styles)
    assert min(np.diff(lightness)) > 0.05


# The documentation


def test_blocks_are_filled_and_the_rest_stays():
    page = "before\n<!-- compare:costs:begin -->\nold\n<!-- compare:costs:end -->\nafter\n"
    found = complete()
    filled = report.filled(page, found)
    assert filled.startswith("before\n<!-- compare:costs:begin -->\n| layer |")
    assert filled.endswith("<!-- compare:costs:end -->\nafter\n")
    assert report.filled(filled, found) == filled


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no block", "it has no block"),
        ("<!-- compare:speed:begin -->\n<!-- compare:speed:end -->", "its block compare:speed is none of provenance"),
    ],
)
def test_a_page_without_blocks_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        report.check_page(text)


def test_the_page_is_that_of_the_results_beside_it():
    text = PAGE.read_text(encoding="utf-8")
    found = results.load(PAGE.with_suffix("") / "results.json")
    assert report.filled(text, found) == text, f"python -m fastrnn compare --from results.json --docs {PAGE.name}"
    names = set(re.findall(r"<!-- compare:(\w+):begin -->", text))
    assert names == set(report.BLOCKS)
    shown = set(re.findall(r"\(lstm-vs-gru/(\w+)\.png\)", text))
    assert shown == set(plots.PLOTS)
    assert all((PAGE.with_suffix("") / f"{name}.png").exists() for name in shown)


def test_no_measured_number_is_typed_on_the_page():
    text = re.sub(r"<!-- compare:(\w+):begin -->.*?<!-- compare:\1:end -->", "", PAGE.read_text("utf-8"), flags=re.S)
    assert re.findall(r"\d+\.\d+|\d+ ?(?:%|µs|ms|s\b|x\b)", re.sub(r"forget_bias=1\.0", "", text)) == []


def test_the_drawings_are_pictures_with_words():
    for cell in ("rnn", "gru", "lstm"):
        picture = ElementTree.parse(PAGE.with_suffix("") / f"{cell}-step.svg").getroot()
        words = "".join(picture.itertext())
        assert picture.get("role") == "img"
        assert "tanh" in words
        assert ("\u03c3" in words) == (cell != "rnn")
