"""The energy of trainings by hand, over attempts; carbon by its definition."""

import json
import time

import pytest

from dynnas_jax.costs import energy, training_energy
from dynnas_jax.costs.training_energy import Meter, Source


def test_attempts_add_up(tmp_path):
    """Two attempts, the second told by counters that go round."""
    file = tmp_path / "energy.json"
    seen = []

    def spent(seconds):
        seen.append(seconds)
        return 3.0 * seconds

    with Meter(Source("a meter of 3 W", spent), file, every_s=0.01):
        while len(seen) < 4:  # the start, and several looks on the way
            pass
    first = training_energy.read(file)
    assert first.energy_j == pytest.approx(3 * first.seconds)
    assert first.seconds == pytest.approx(sum(seen[1:]))
    counter = tmp_path / "energy_uj"
    counter.write_text("900")
    counters = (energy.Counter("package-0", counter, 1000),)

    def interrupted():
        with Meter(training_energy.of_counters(counters), file, every_s=60):
            counter.write_text("200")
            raise RuntimeError("the training was interrupted")

    with pytest.raises(RuntimeError):
        interrupted()
    second = training_energy.read(file)
    assert second.energy_j - first.energy_j == pytest.approx(300e-6)
    assert json.loads(file.read_text())["source"] == "counters of the processor (package-0)"


def test_what_nvidia_s_tool_says():
    said = ["61.5\n38.5\n", "[N/A]", "200\n100\n"]
    source = training_energy.of_nvidia(lambda: said.pop(0))
    assert source.spent(2.0) == 200.0, "as before, where nothing is said"
    assert source.spent(2.0) == 600.0
    assert training_energy.of_nvidia(lambda: None) is None
    assert training_energy.of_nvidia(lambda: "[N/A]") is None


def test_power_where_no_meter_tells(monkeypatch):
    """Of a processor nothing is known but how long this process was on its cores, whatever else the machine did meanwhile."""
    monkeypatch.setattr(energy, "rapl", lambda: ())
    source = training_energy.source("cpu")
    begun = time.process_time()
    source.spent(0.0)
    time.sleep(0.05)
    waited = source.spent(1000.0)
    while time.process_time() < begun + 0.1:
        pass
    assert waited + source.spent(1000.0) >= energy.CORE_POWER_W * 0.09
    assert waited < energy.CORE_POWER_W * 0.05
    assert source.name == "12 W a core x processor seconds of the process"
    assert training_energy.source("cpu", 30.0).spent(2.0) == 60.0
    with pytest.raises(ValueError, match=r"power_w is 0.0, must be above 0"):
        training_energy.source("cpu", 0.0)


def test_every_process_on_processors_counts():
    seconds = [10.0, 14.0, 14.5]
    source = training_energy.of_processor(3, lambda: seconds.pop(0))
    assert [source.spent(60.0) for _ in range(2)] == [3 * 12 * 4.0, 3 * 12 * 0.5]
    assert source.name == "3 x 12 W a core x processor seconds of the process"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA GeForce GTX 1080 Ti", "GTX 1080 Ti"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"),
        ("nvidia h200", "H200"),
        ("NVIDIA L40S", None),
        ("NVIDIA T400 4GB", None),
        ("NVIDIA A10", None),
        ("TPU v4", None),
    ],
)
def test_devices_are_known_by_whole_words(name, known):
    assert energy.known_device(name) == known


def test_all_devices_count_and_unknown_ones_are_no_processor(monkeypatch, tmp_path):
    monkeypatch.setattr(training_energy, "_nvidia_says", lambda: None)
    four = training_energy.source("Tesla T4", devices=4)
    assert (four.spent(10.0), four.name) == (4 * 70 * 10, "4 x 70 W of a T4 x time")
    unknown = training_energy.source("TPU v4", devices=2)
    assert unknown.name == "nothing tells the power of 2 x TPU v4; give power_w"
    file = tmp_path / "energy.json"
    for source in (unknown, training_energy.source("TPU v4", 100.0)):  # half of a training is not told
        with Meter(source, file, every_s=60):
            pass
        assert training_energy.read(file).energy_j is None
    assert training_energy.read(file).seconds > 0
    monkeypatch.setattr(training_energy, "_nvidia_says", lambda: "100\n100\n")
    assert training_energy.source("NVIDIA L40S", devices=8, processes=4).spent(2.0) == 4 * 200 * 2


def test_nvidia_s_tool_is_asked_of_the_visible_devices_alone(monkeypatch):
    asked = []

    def run(command, **_):
        asked.append(command[3:])
        raise OSError("there is no such tool")

    monkeypatch.setattr(training_energy.subprocess, "run", run)
    for named in ("1, 3", "GPU-8a2f"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert training_energy.of_nvidia() is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert training_energy.of_nvidia() is None
    assert asked == [("-i", "1,3"), ("-i", "GPU-8a2f"), ()]


def test_carbon_of_a_kilowatt_hour():
    assert energy.carbon_g(3.6e6) == pytest.approx(475.0)
    assert energy.carbon_g(250 * 3600, 400.0) == pytest.approx(100.0)
    for wrong in ((-1.0, 400.0), (1.0, float("nan"))):
        with pytest.raises(ValueError, match="neither may be below zero"):
            energy.carbon_g(*wrong)
