"""The energy of trainings by hand, over attempts; carbon by its definition."""

import json

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
    monkeypatch.setattr(energy, "rapl", lambda: ())
    assert training_energy.source("cpu", 4).spent(10.0) == 4 * energy.CORE_POWER_W * 10
    assert training_energy.source("cpu", 4, 30.0).spent(2.0) == 60.0
    assert energy.device_power_w("NVIDIA GeForce GTX 1080 Ti", 8)[0] == 250.0
    with pytest.raises(ValueError, match=r"grow.power_w is 0.0, must be above 0"):
        training_energy.source("cpu", 4, 0.0)


def test_carbon_of_a_kilowatt_hour():
    assert energy.carbon_g(3.6e6) == pytest.approx(475.0)
    assert energy.carbon_g(250 * 3600, 400.0) == pytest.approx(100.0)
    for wrong in ((-1.0, 400.0), (1.0, float("nan"))):
        with pytest.raises(ValueError, match="neither may be below zero"):
            energy.carbon_g(*wrong)
