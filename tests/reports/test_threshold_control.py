"""The threshold control, driven in headless Chromium, against NumPy."""

import base64
import html as markup
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from typing import NamedTuple

import numpy as np
import pytest

from dynnas_jax.dynamic import thresholds
from dynnas_jax.reports import artifacts, page, sections, threshold_control

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LATENCIES_MS = {"x86 fp32": (0.25, 0.8125), "a <b>board</b> & </script><!--": (3.0, 11.5)}
MACS, LAST_MACS = (1_412_096, 7_468_160, 9_000_001), 6_203_520


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """browser(text or path, fragment) -> the text of the page once its scripts have run."""
    named = os.environ.get("DYNNAS_CHROMIUM")
    program = next(filter(None, map(shutil.which, [named] if named else BROWSERS)), None)
    if program is None and named:
        pytest.fail(f"DYNNAS_CHROMIUM={named} is no program on the PATH")
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on the PATH: no browser to move the threshold in")
    folder = tmp_path_factory.mktemp("browser")

    def run(content, fragment=""):
        path = content
        if isinstance(content, str):
            path = folder / "page.html"
            path.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body>{content}</body>', encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
        command = [program, *options, "--dump-dom", f"{path.as_uri()}{fragment}"]
        return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout.decode()

    return run


class Network(NamedTuple):
    score: np.ndarray  # float32[m, S]
    correct: np.ndarray  # bool[m, S]
    used: tuple[float, ...]
    names: tuple[str, ...]

    @property
    def control(self) -> str:
        return threshold_control.html(
            self.score,
            self.correct,
            self.used,
            names=self.names,
            macs=MACS[: len(self.names)],
            last_macs=LAST_MACS,
            latencies_ms=LATENCIES_MS if len(self.names) == 2 else {},
        )

    def expected(self, limits) -> list[float]:
        """The numbers of the tiles, in their order, by brute force over the images."""
        choices = len(self.names)
        limits = np.asarray(limits, np.float32)
        choice = [next((s for s in range(choices - 1) if row[s] > limits[s]), choices - 1) for row in self.score]
        right = sum(int(self.correct[i, s]) for i, s in enumerate(choice))
        answered = [choice.count(s) for s in range(choices)]
        images = len(choice)
        macs = sum(n * cost for n, cost in zip(answered, MACS[:choices], strict=True)) / images
        spent = LATENCIES_MS.values() if choices == 2 else ()
        latencies = [sum(n * ms for n, ms in zip(answered, row, strict=True)) / images for row in spent]
        exits = [100 * (n / images) for n in answered[:-1]]
        return [100 * (right / images), macs / 1e6, 100 * macs / LAST_MACS, *exits, *latencies]


def network(choices=2, images=999, zero=False) -> Network:
    """Scores that crowd near 1, with ties, one of them 1 and perhaps one 0."""
    rng = np.random.default_rng(3)
    score = (1 - 10 ** -rng.gamma(2.0, 1.0, (images, choices))).astype(np.float32)
    score[rng.integers(0, images, images // 3)] = score[rng.integers(0, images, images // 3)]
    score[7] = 1
    score[8, 0] = 0 if zero else score[8, 0]
    correct = rng.random((images, choices)) < np.linspace(0.7, 0.95, choices)
    return Network(score, correct, (0.9, 0.6)[: choices - 1], ("little", "middle", "big")[:: 4 - choices])


# What a user does, written down in the page: each act is [which dial, "type" | "move" | "reset", what].
DRIVER = """
<pre id="results"></pre>
<script>
const acts = %s;
const dials = [...document.querySelectorAll(".dial")];
const part = (dial, name) => dials[dial].querySelector(name);
const state = () => ({
  values: [...document.querySelectorAll(".here")].map((one) => one.value),
  texts: [...document.querySelectorAll(".here")].map((one) => one.textContent),
  numbers: dials.map((_, dial) => part(dial, "input[type=text]").value),
  stops: dials.map((_, dial) => ["min", "value", "max"].map((key) => Number(part(dial, "input[type=range]")[key]))),
  refused: dials.map((_, dial) => part(dial, "[role=alert]").textContent),
  invalid: dials.map((_, dial) => part(dial, "input[type=text]").getAttribute("aria-invalid")),
  spoken: document.querySelector("output").textContent,
  still: document.querySelector(".control").classList.contains("still"),
  address: location.hash,
});
const results = [state()];
for (const [dial, act, what] of acts) {
  if (act === "reset") {
    part(dial, "button").click();
  } else {
    const input = part(dial, act === "type" ? "input[type=text]" : "input[type=range]");
    input.value = what;
    for (const event of act === "type" ? ["change"] : ["input", "change"]) input.dispatchEvent(new Event(event));
  }
  results.push(state());
}
document.getElementById("results").textContent = JSON.stringify(results);
</script>
"""


def driven(browser, network, acts) -> list[dict]:
    """What the control shows at first and after each act."""
    text = browser(network.control + DRIVER % json.dumps(acts))
    found = json.loads(markup.unescape(re.search(r'<pre id="results">(.*?)</pre>', text, re.S)[1]))
    return [{**state, "values": [float(value) for value in state["values"]]} for state in found]


def typed(score) -> list[str]:
    """The extremes, scores as they are, their neighbours in float32, and numbers between two float32 that round to a score."""
    some = np.unique(score[:, 0])[[0, 1, 5, len(score) // 4, -3, -2]]
    below, above = np.nextafter(some, np.float32(0)), np.nextafter(some, np.float32(1))
    nearly = np.concatenate([some + 0.4 * (np.float64(side) - some) for side in (below, above)])
    numbers = [*some.tolist(), *below.tolist(), *above.tolist(), *nearly.tolist(), *np.linspace(0, 1, 23).tolist()]
    return ["0", "1", "0.5", "0,5", " 1e-3 ", "0.999", "0.99999", *map(repr, numbers)]


def test_any_threshold_gives_what_numpy_gives(browser):
    net = network()
    texts = typed(net.score)
    first, *states = driven(browser, net, [[0, "type", text] for text in texts])
    assert first["values"] == net.expected(net.used)
    assert first["still"] is False
    for text, state in zip(texts, states, strict=True):
        limit = float(text.replace(",", "."))
        assert state["values"] == net.expected([limit]), text
        point = thresholds.evaluate(net.score, net.correct, MACS[:2], [limit])
        assert state["values"][:2] == [100 * point.accuracy, point.average_cost / 1e6]
        assert state["refused"] == [""]
        assert state["numbers"] == [text.strip()]
        low, at, high = state["stops"][0]
        assert (low, high) == (0, len(np.unique(net.score[:, 0])))
        assert at == np.sum(np.unique(net.score[:, 0]) <= np.float32(limit))


@pytest.mark.parametrize("zero", [False, True])
def test_the_slider_stops_at_every_operating_point(browser, zero):
    net = network(images=300, zero=zero)
    curve = thresholds.curve(net.score, net.correct, MACS[:2])
    stops = range(int(zero), len(np.unique(net.score[:, 0])) + 1)
    states = driven(browser, net, [[0, "move", stop] for stop in stops])[1:]
    assert [state["stops"][0] for state in states] == [[stops[0], stop, stops[-1]] for stop in stops]
    shown = np.array([state["values"] for state in states])
    np.testing.assert_array_equal(shown[:, 0], 100 * curve.accuracy)
    np.testing.assert_array_equal(shown[:, 1], curve.average_cost / 1e6)
    np.testing.assert_array_equal(shown[:, 3], 100 * curve.exit_rate[:, 0])
    for state in states:  # the number that is shown does what the slider did
        assert state["values"] == net.expected([float(state["numbers"][0])])
    # It is as round as can be: with one decimal less no number acts alike.
    values = np.unique(net.score[:, 0])
    for low, high, state in list(zip(values, values[1:], states[1 - int(zero) :], strict=False))[::10]:
        decimals = len(state["numbers"][0].partition(".")[2])
        if "e" not in state["numbers"][0] and decimals:
            coarser = np.ceil(float(low) * 10 ** (decimals - 1)) / 10 ** (decimals - 1)
            assert not low <= np.float32(coarser) < high


def test_a_number_outside_is_refused_in_plain_words(browser):
    net = network()
    texts = ["1.0001", "-0.1", "", "much", "NaN", "<b>"]
    _, before, *states = driven(
        browser, net, [[0, "type", text] for text in ["0.7", *texts, "0.3"]] + [[0, "reset", 0]]
    )
    *refused, after, reset = states
    for text, state in zip(texts, refused, strict=True):
        assert state["refused"] == [f"“{text}” is not a threshold: give a number from 0 to 1. Shown is 0.7."]
        assert state["invalid"] == ["true"]
        assert state["values"] == before["values"] == net.expected([0.7])
        assert state["stops"] == before["stops"]
        assert state["address"] == before["address"] == "#threshold=0.7"
    assert after["refused"] == [""]
    assert after["invalid"] == ["false"]
    assert after["values"] == net.expected([0.3])
    assert after["address"] == "#threshold=0.3"
    assert reset["values"] == net.expected(net.used)
    assert reset["numbers"] == ["0.9"]


def test_numbers_read_as_those_of_the_tables(browser):
    # Of 800 images every second share of eighths of a percent is a tie of the second digit.
    rng = np.random.default_rng(0)
    score = rng.permutation(np.linspace(0, 1, 800, dtype=np.float32))[:, None].repeat(2, axis=1)
    net = Network(score, rng.random((800, 2)) < (0.5, 0.97), (0.9,), ("little", "big"))
    states = driven(browser, net, [[0, "move", stop] for stop in range(1, 800, 3)])
    assert any(100 * state["values"][0] % 1 == 0.5 for state in states)
    units = [(" %", 2), (" M", 3), (" %", 1), (" %", 1), (" ms", 4), (" ms", 3)]
    for state in states:
        shown = zip(state["values"], units, strict=True)
        assert state["texts"] == [f"{value:,.{digits}f}{unit}" for value, (unit, digits) in shown]
        assert state["spoken"].startswith(
            f"accuracy: {state['texts'][0]}; average MACs: {state['texts'][1]}; of big's MACs: "
        )


def test_three_exits_have_a_threshold_each(browser):
    net = network(choices=3)
    acts = [[0, "type", "0.5"], [1, "type", "0.99"], [1, "move", 0], [0, "type", "1"], [1, "type", "1"]]
    states = driven(browser, net, [*acts, [0, "reset", 0]])
    limits = [net.used, (0.5, 0.6), (0.5, 0.99), (0.5, 0), (1, 0), (1, 1), (0.9, 1)]
    for state, expected in zip(states, limits, strict=True):
        assert state["values"] == net.expected(expected)
    assert states[-1]["address"] == "#threshold=0.9,1"
    assert len(states[0]["values"]) == 5


@pytest.fixture
def report(workdir, monkeypatch):
    """The page of a run, with what the control is made of and few figures, of few pixels."""
    for name in ("train/metrics.jsonl", "predict/predictor.json", "evaluate/samples.npz"):
        (workdir / name).unlink()
    draw = sections.plots.png
    monkeypatch.setattr(sections.plots, "png", lambda figure: draw(figure, dpi=30))
    return page.write(workdir)


class _Read(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tiles, self.scripts, self.names, self.inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.inside = tag
        if tag == "data" and attributes.get("class") == "here":
            self.tiles.append(float(attributes["value"]))
        if tag == "script":
            self.scripts.append("")
        if tag == "dt":
            self.names.append("")

    def handle_data(self, text):
        if self.inside == "script":
            self.scripts[-1] += text
        if self.inside == "dt":
            self.names[-1] += text

    def handle_endtag(self, _):
        self.inside = None


def test_a_link_to_an_operating_point(browser, workdir, report):
    arrays = np.load(workdir / "evaluate" / "outputs.npz")
    pair = json.loads((workdir / "search" / "found.json").read_text())["pair"]
    files = json.loads((workdir / "export" / "x86" / "export.json").read_text())["files"]
    for fragment, limit in (("#threshold=0.7", 0.7), ("#threshold=1.5", pair["thresholds"][0]), ("", 0.8)):
        text = browser(report, fragment)
        assert ("“1.5” is not a threshold" in text) == (fragment == "#threshold=1.5")
        leaves = arrays["score"][:, 0] > np.float32(limit)
        costs = [pair["cost"]]
        for precision in ("fp32", "int8"):
            means = [files[f"{part}_{precision}"]["latency_mean_ms"] for part in ("little", "big_after_stem")]
            costs.append(np.cumsum(means))
        macs, *latencies = (np.where(leaves, *cost).mean() for cost in costs)
        accuracy = 100 * np.where(leaves, *arrays["correct"].T).mean()
        share = 100 * macs / pair["big"]["macs"]
        expected = [accuracy, macs / 1e6, share, 100 * leaves.mean(), *latencies]
        np.testing.assert_allclose(_Read(text).tiles, expected, rtol=1e-12)


def test_without_scripts_the_values_in_use_stand_there(workdir, report):
    found = _Read(report.read_text(encoding="utf-8"))
    evaluation = json.loads((workdir / "evaluate" / "evaluation.json").read_text())
    dynamic, big = evaluation["dynamic"], evaluation["big"]
    assert found.tiles[:4] == [
        100 * dynamic["accuracy"],
        dynamic["macs"] / 1e6,
        100 * dynamic["macs"] / big["macs"],
        100 * dynamic["exit_rate"][0],
    ]
    assert '<div class="control still"' in report.read_text(encoding="utf-8")


def test_no_name_breaks_out_of_the_page():
    net = network()
    found = _Read(net.control)
    assert len(found.scripts) == 2
    assert found.names[-2:] == [f"latency, {name}" for name in LATENCIES_MS]
    assert "<" not in found.scripts[0]
    assert not re.search(r"</|<!--", found.scripts[1])
    harmless = threshold_control._json({"</script>": "<!-- & \u2028"})
    assert not re.search("[<>&\u2028]", harmless)
    assert json.loads(harmless) == {"</script>": "<!-- & \u2028"}


def test_ten_thousand_images_stay_small():
    rng = np.random.default_rng(0)
    score = rng.random((10_000, 2), np.float32)
    net = Network(score, rng.random((10_000, 2)) < 0.9, (0.5,), ("little", "big"))
    control = net.control
    assert len(control) < 100_000
    stored = json.loads(_Read(control).scripts[0])
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(stored["score"][0]), "<f4"), score[:, 0])


def test_latencies_of_a_table_of_files_and_of_boards(workdir):
    found = artifacts.read(workdir)
    means = {name: file["latency_mean_ms"] for name, file in found.exports["x86"]["files"].items()}
    own = {
        f"x86 {precision}": [
            means[f"little_{precision}"],
            means[f"little_{precision}"] + means[f"big_after_stem_{precision}"],
        ]
        for precision in ("fp32", "int8")
    }
    assert threshold_control.latencies_ms(found) == own
    bench = {
        "model": {"precision": "int8"},
        "sections": {
            part: {"latency_ms": {"mean_ms": mean}}
            for part, mean in {"router": 1.0, "little_after_stem": 2.0, "big_after_stem": 5.0, "decision": 4.5}.items()
        },
    }
    pair = {**found.found["pair"], "latency_ms": [0.5, 2.0]}
    more = found._replace(found={**found.found, "pair": pair}, benches={"kitchen": bench})
    expected = {"by table": [0.5, 2.0], **own, "kitchen int8": [3.0, 6.0]}
    assert threshold_control.latencies_ms(more) == expected
    del bench["sections"]["router"], bench["sections"]["big_after_stem"]
    bench["sections"] |= {"little": {"latency_ms": {"mean_ms": 2.5}}, "big": {"latency_ms": {"mean_ms": 4.0}}}
    assert threshold_control.latencies_ms(more)["kitchen int8"] == [2.5, 6.5]  # nothing is shared
    del bench["sections"]["big"]
    assert "kitchen int8" not in threshold_control.latencies_ms(more)
