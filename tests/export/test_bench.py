"""Measurements: what is counted, what energy is made of, and the command from arguments to JSON."""

import copy
import functools
import hashlib
import json
import re
import shutil
import time

import numpy as np
import pytest
from hand_made import MACS, STEPS, hand_made, tell  # noqa: F401 (a fixture)
from PIL import Image

from dynnas_jax.__main__ import main
from dynnas_jax.costs import energy
from dynnas_jax.export import bench, engines, machine, runtime, targets


def test_the_counted_runs_only():
    calls = []
    latency = bench.timed(calls.append, ["a", "b", "c"], runs=6, warm_up=3)
    assert calls == ["a", "b", "c"] * 3
    assert 0 < latency.p10_ms <= latency.median_ms <= latency.p90_ms <= latency.p95_ms
    assert latency.p10_ms / 6 <= latency.mean_ms
    for inputs, runs, warm_up in (([], 1, 1), (["a"], 0, 1), (["a"], 1, -1)):
        with pytest.raises(ValueError, match="at least one input and one run"):
            bench.timed(calls.append, inputs, runs=runs, warm_up=warm_up)


def test_percentiles_are_of_the_durations():
    naps = iter([0.0, 0.001, 0.001, 0.001, 0.02])
    latency = bench.timed(lambda _: time.sleep(next(naps)), [None], runs=4, warm_up=1)
    assert 1 <= latency.median_ms < 15 < latency.p95_ms
    assert latency.mean_ms >= (3 * 1 + 20) / 4


class Meter:
    """Counters that show 2 W, and nothing else of the module `energy`."""

    def __init__(self):
        self.start = time.perf_counter()

    def rapl(self):
        return ("package-0",)

    def read_uj(self, counters):
        return tuple(int(2e6 * (time.perf_counter() - self.start)) for _ in counters)

    elapsed_j = staticmethod(energy.elapsed_j)


def test_the_time_for_energy(monkeypatch):
    meter, calls = Meter(), []
    monkeypatch.setattr(meter, "elapsed_j", lambda _, before, after: (after[0] - before[0]) / 1e6)
    window = bench.repeated(lambda value: (calls.append(value), time.sleep(0.001)), [1, 2, 3], 0.1, meter)
    assert window.calls == len(calls) <= 100
    assert 0.1 <= window.end_s - window.start_s < 5
    assert window.rapl_j == pytest.approx(2 * (window.end_s - window.start_s), rel=0.1)
    assert abs(window.end_s - time.time()) < 5
    assert bench.repeated(calls.append, [1, 2, 3], 0.0, meter).calls == 3  # each input once at least


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_net_alone_does_what_it_does_in_a_decision(hand_made, monkeypatch, precision):  # noqa: F811
    """It scales the image and reads its logits; what is passed on is neither scaled nor read."""
    classifier, asked = runtime.DynamicClassifier(hand_made.one_file, precision), []
    for model in (*classifier.in_turn, *classifier.whole.values()):
        real = classifier.inputs_of(model.name, hand_made.images[0])
        expected = model.run(real)
        call, (given,) = bench.net_alone(model, [real])
        with monkeypatch.context() as patch:
            for name in ("store", "real"):
                own = getattr(model, name)
                patch.setattr(model, name, lambda key, value, own=own: asked.append(key) or own(key, value))
            found = call(given)
        assert asked == [*(["image"] if "image" in model.inputs else []), "logits"]
        assert list(found) == ["logits"]
        np.testing.assert_array_equal(found["logits"], expected["logits"])
        asked.clear()


def test_scaling_of_all_that_flows_is_not_timed(hand_made, monkeypatch):  # noqa: F811
    """`run` scales and reads everything: it prepares the inputs, however many calls are timed."""
    classifier, runs, own = runtime.DynamicClassifier(hand_made.one_file, "int8"), [], engines.Model.run
    monkeypatch.setattr(engines.Model, "run", lambda self, values: runs.append(self.name) or own(self, values))
    counts = []
    for timed in (1, 50):
        bench.measure(classifier, list(hand_made.images[:3]), energy, runs=timed, warm_up=0)
        counts.append(len(runs))
        runs.clear()
    assert counts[0] == counts[1]


# Energy of results.


@pytest.fixture
def results():
    """results(target=..., ...): of one section of 1000 calls of 2 ms in 4 s."""

    def make(target="pi4", board="Raspberry Pi 4 Model B Rev 1.4", delegate=None, rapl_j=None, window=True):
        latency = {"median_ms": 1.9, "p10_ms": 1.8, "p90_ms": 2.2, "p95_ms": 2.5, "mean_ms": 2.0}
        own = {"start_s": 100.0, "end_s": 104.0, "calls": 1000, "rapl_j": rapl_j}
        section = {"latency_ms": latency, "throughput_per_s": 500.0, "window": own if window else None}
        return {
            "sections": {"decision": section},
            "model": {"target": target},
            "machine": {"board": board},
            "settings": {"delegate": delegate},
        }

    return make


def spent(content, log=None):
    return bench.add_energy(content, energy, log)["sections"]["decision"]["energy"]


def test_energy_says_where_it_is_from(results):
    meter = energy.power_log.Log(tuple(range(98, 108)), (5.0,) * 10, "meter.csv (power_w)")
    assert spent(results(rapl_j=6.0), meter) == {
        "energy_mj": pytest.approx(5 * 4 / 1000 * 1e3),
        "source": "log",
        "detail": "meter.csv (power_w)",
    }
    assert spent(results(rapl_j=6.0))["energy_mj"] == pytest.approx(6.0)
    assert spent(results(rapl_j=6.0))["source"] == "rapl"
    figure = spent(results())
    assert figure["energy_mj"] == pytest.approx(targets.TARGETS["pi4"].power.watts * 2.0)
    assert figure["source"] == "power_figure"
    assert figure["detail"].startswith("not measured: 3.06 W (Raspberry Pi documentation")


def test_a_figure_is_for_its_own_board_only(results):
    assert spent(results(board=None)) is None  # a Pi's export on a computer
    assert spent(results(board="Raspberry Pi 5 Model B")) is None
    assert spent(results("pi5", "Raspberry Pi 5 Model B"))["source"] == "power_figure"
    assert spent(results("edgetpu", None)) is None
    assert spent(results("edgetpu", None, delegate="libedgetpu.so.1"))["source"] == "power_figure"
    assert spent(results("x86", None)) is None
    assert spent(results("unknown", None)) is None


def test_a_log_that_does_not_fit(results):
    meter = energy.power_log.Log((0.0, 50.0), (5.0, 5.0), "meter.csv (power_w)")
    with pytest.raises(ValueError, match="the log must cover it"):
        spent(results(), meter)
    with pytest.raises(ValueError, match="measure again, with --energy_s=30"):
        spent(results(window=False), meter)


# The command.


@pytest.fixture
def folder(hand_made, tmp_path):  # noqa: F811
    return shutil.copytree(hand_made.one_file, tmp_path / "export")


@pytest.fixture
def pictures(hand_made, tmp_path):  # noqa: F811
    for index, image in enumerate(hand_made.images):
        path = tmp_path / "pictures" / str(index % 3) / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "pictures"


QUICK = ("--runs=40", "--warm_up=2")


def test_from_arguments_to_results(folder, pictures, capsys, tmp_path, hand_made):  # noqa: F811
    output = tmp_path / "bench.json"
    main(
        [
            "bench",
            str(folder),
            "--precision=fp32",
            f"--images={pictures}",
            "--energy_s=0.05",
            f"--output={output}",
            *QUICK,
        ]
    )
    content = bench.read(output)
    assert list(content["sections"]) == ["decision", *STEPS, "large"]
    for own in content["sections"].values():
        latency = own["latency_ms"]
        assert 0 < latency["p10_ms"] <= latency["median_ms"] <= latency["p95_ms"]
        assert own["throughput_per_s"] == pytest.approx(1e3 / latency["mean_ms"])
        assert own["window"]["end_s"] - own["window"]["start_s"] >= 0.05
    classifier = runtime.DynamicClassifier(folder, "fp32")
    choices = [classifier.predict(image).choice for image in hand_made.images]  # 40 runs over 40 images, each once
    assert content["exit_rate"] == pytest.approx(np.bincount(choices, minlength=3) / 40)
    assert [median > 0 for median in content["exit_median_ms"]] == [True] * 3
    digest = hashlib.sha256((folder / "model_fp32.tflite").read_bytes()).hexdigest()
    assert content["model"]["files"]["model_fp32.tflite"]["sha256"] == digest
    assert set(content["model"]["files"]["model_fp32.tflite"]["nets"]) == set(MACS)
    assert content["settings"]["image_count"] == 40
    assert 0 < content["before_opening_bytes"] <= content["peak_memory_bytes"] < 2**33
    told = capsys.readouterr().out
    assert re.search(r"^decision( +[\d.]+){3} +(-|[\d.e-]+)$", told, re.M)
    assert "answered by: 50.0% first, 27.5% second, 22.5% third" in told


def test_the_images_are_spread_over_the_folder(folder, pictures, tmp_path):
    output = tmp_path / "bench.json"
    main(["bench", str(folder), f"--images={pictures}", "--most_images=3", f"--output={output}", *QUICK])
    assert bench.read(output)["settings"]["image_count"] == 3


def test_a_single_net_has_one_section(folder, tmp_path, capsys):
    path = folder / "model_fp32.tflite"
    tell(path, steps=["large"], whole=[], thresholds=[], cost=[1], files={"large": path.name})
    main(["bench", str(path), f"--output={tmp_path / 'bench.json'}", *QUICK])
    assert list(bench.read(tmp_path / "bench.json")["sections"]) == ["decision"]
    assert "20 images of noise, so the exits are not those of photos" in capsys.readouterr().out


def test_a_log_may_come_later(folder, tmp_path, capsys):
    first, second, csv = tmp_path / "bench.json", tmp_path / "with_energy.json", tmp_path / "log.csv"
    main(["bench", str(folder), "--energy_s=0.05", f"--output={first}", *QUICK])
    content = bench.read(first)
    windows = [own["window"] for own in content["sections"].values()]
    begun = windows[0]["start_s"] - 1
    steps = np.arange(0, windows[-1]["end_s"] + 1 - begun, 0.005)
    csv.write_text("time_s,power_mw\n" + "".join(f"{step:.3f},4000\n" for step in steps))
    main(["bench", str(first), f"--energy_log={csv}", f"--energy_log_start={begun}", f"--output={second}"])
    for own, window in zip(bench.read(second)["sections"].values(), windows, strict=True):
        expected = 4.0 * (window["end_s"] - window["start_s"]) / window["calls"] * 1e3
        assert own["energy"]["energy_mj"] == pytest.approx(expected, rel=1e-6)
        assert own["energy"]["source"] == "log"
    assert "energy: log, log.csv (power_mw)" in capsys.readouterr().out


def without(content, keys):
    """A copy of the results without the value at these keys."""
    content = copy.deepcopy(content)
    place = content
    for key in keys[:-1]:
        place = place[key]
    del place[keys[-1]]
    return content


def exit_code(*arguments):
    try:
        main([*map(str, arguments)])
    except SystemExit as stopped:
        return stopped.code
    return 0


def all_keys(content, before=()):
    for key, value in content.items():
        yield (*before, key)
        yield from all_keys(value, (*before, key)) if isinstance(value, dict) else ()


def test_results_without_a_part_are_one_plain_line_or_do_without(folder, tmp_path, capsys):
    """Whatever is taken out of the JSON: what is printed and computed of it needs it, or it is not asked for."""
    output, csv = tmp_path / "bench.json", tmp_path / "log.csv"
    main(["bench", str(folder), "--energy_s=0.02", f"--output={output}", *QUICK])
    content = bench.read(output)
    begun = content["sections"][bench.DECISION]["window"]["start_s"] - 1
    ended = max(own["window"]["end_s"] for own in content["sections"].values()) + 1
    csv.write_text("time_s,power_w\n" + "".join(f"{step:.3f},4\n" for step in np.arange(0, ended - begun, 0.002)))
    arguments = [f"--energy_log={csv}", f"--energy_log_start={begun}", f"--output={tmp_path / 'new.json'}"]
    wrong, keys = [], list(all_keys(content))
    for place in keys:
        output.write_text(json.dumps(without(content, place)))
        code, told = exit_code("bench", output, *arguments), capsys.readouterr().err
        assert (code, told.count("\n")) in ((0, 0), (2, 1)), told
        if code:
            assert told.startswith("dynnas: ")
            wrong.append(".".join(place))
    assert {"started", "model", "model.steps", "sections.decision.latency_ms.mean_ms", "settings.threads"} <= set(wrong)
    assert {"version", "machine.temperature_c", "model.files.model_int8.tflite.sha256"} <= set(wrong)
    assert len(wrong) < len(keys)
    for place, other in (
        *((("started",), "2026-01-31T12:00:00"), (("exit_rate",), ["none"]), (("sections",), [])),
        *((("sections", "decision", "energy"), "x"), (("sections", "decision", "energy"), {"energy_mj": "1"})),
        *(
            (("sections", "decision", "window", "calls"), 0),
            (("sections", "decision", "latency_ms", "mean_ms"), 10**400),
        ),
        *((("sections", "decision", "throughput_per_s"), float("nan")), (("settings", "threads"), True)),
        *((("model", "steps"), []), (("model", "thresholds"), [10**400, 0.5]), (("machine", "board"), "\ud800")),
    ):
        changed = without(content, place)
        inner = functools.reduce(dict.__getitem__, place[:-1], changed)
        inner[place[-1]] = other
        output.write_text(json.dumps(changed))
        assert exit_code("bench", output, *arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_mistakes_leave_nothing(folder, tmp_path, capsys):
    output, csv, other = tmp_path / "bench.json", tmp_path / "log.csv", tmp_path / "other.txt"
    main(["bench", str(folder), f"--output={output}", *QUICK])
    kept = output.read_text()
    other.write_text("mine")
    capsys.readouterr()
    csv.write_text("time_s,power\n0,1\n")
    (tmp_path / "bad.json").write_text("[")
    (tmp_path / "other.json").write_text(json.dumps({"version": 99, "kind": bench.KIND}))
    for arguments, said in (
        ([folder, "--runs=0"], "at least one input and one run"),
        ([folder, "--energy_s=-1"], "--energy_s=-1"),
        ([folder, "--most_images=0"], "--most_images=0"),
        ([folder, "--images=nowhere"], "no images there"),
        ([tmp_path], "holds no exported model"),
        ([tmp_path / "none.tflite"], "cannot read"),
        ([tmp_path / "bad.json", f"--energy_log={csv}"], "is not JSON"),
        ([folder, f"--output={other}"], "exists and is kept"),
        ([folder, f"--output={folder / 'model_fp32.tflite'}"], "exists and is kept"),
        ([folder, f"--output={tmp_path}"], "is a folder: give the name of a file"),
        ([output, f"--output={tmp_path}", f"--energy_log={csv}"], "is a folder: give the name of a file"),
        ([tmp_path / "other.json", f"--energy_log={csv}"], "holds no results of bench, version 1"),
        ([tmp_path / "other.json"], "--energy_log=CSV adds the energy"),
        ([tmp_path / "none.json", f"--energy_log={csv}"], "cannot read"),
    ):
        quick = [] if "--runs=0" in arguments else ["--runs=1"]
        with pytest.raises(SystemExit) as stopped:
            main(["bench", f"--output={output}", *map(str, arguments), "--warm_up=0", *quick])
        wrong = capsys.readouterr().err
        assert (stopped.value.code, wrong.count("\n")) == (2, 1), wrong
        assert said in wrong
        assert (output.read_text(), other.read_text()) == (kept, "mine")


@pytest.mark.parametrize(
    ("more", "said"),
    [([], "column 'power' names no unit"), (["--energy_log_start=soon"], "--energy_log_start=soon: give 2026")],
)
def test_what_was_measured_outlives_a_wrong_log(folder, tmp_path, capsys, more, said):
    output, csv = tmp_path / "bench.json", tmp_path / "log.csv"
    csv.write_text("time_s,power\n0,1\n")
    with pytest.raises(SystemExit) as stopped:
        main(["bench", str(folder), f"--energy_log={csv}", "--energy_s=0.05", f"--output={output}", *QUICK, *more])
    told = capsys.readouterr()
    assert (stopped.value.code, told.err.count("\n")) == (2, 1)
    assert said in told.err
    assert f"dynnas bench {output} --energy_log=CSV adds it later" in told.err
    assert "answered by" in told.out
    assert all(own["window"] for own in bench.read(output)["sections"].values())


def test_a_file_that_cannot_be_measured_is_named_before_anything_runs(folder, capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["bench", str(folder), f"--output={tmp_path / 'none' / 'bench.json'}"])
    assert "there is no folder" in capsys.readouterr().err


# The machine.


def test_a_board_describes_itself(tmp_path):
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n")
    for core, name in enumerate(("ondemand", "ondemand")):
        path = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"
        path.parent.mkdir(parents=True)
        path.write_text(f"{name}\n")
    for zone, temperature in enumerate(("48312", "51200", "-", "")):
        path = tmp_path / f"sys/class/thermal/thermal_zone{zone}/temp"
        path.parent.mkdir(parents=True)
        path.write_text(temperature)
    assert machine.facts(tmp_path)["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert machine.governor(tmp_path) == "ondemand"
    assert machine.temperature_c(tmp_path) == 51.2


def test_what_cannot_be_read_is_none(tmp_path):
    assert machine.facts(tmp_path)["board"] is None
    assert machine.governor(tmp_path) is None
    assert machine.temperature_c(tmp_path) is None


def test_peak_memory_is_the_kernel_s(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t   51200 kB\nVmRSS:\t 40960 kB\n")
    assert machine.peak_memory_bytes(tmp_path / "status") == 50 * 2**20
    large = np.ones(8_000_000)  # 64 MB, touched
    resident = machine.resident_bytes()  # first: it may grow between the two
    assert machine.peak_memory_bytes() >= resident >= large.nbytes
