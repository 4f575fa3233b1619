"""Energy by hand: rectangles and triangles of a log, counters of a made-up processor."""

import math

import numpy as np
import pytest

from dynnas_jax.costs import energy
from dynnas_jax.costs.power_log import Log

START = 1_700_000_000.0


def log(times, powers):
    return Log(tuple(START + time for time in times), tuple(powers), "meter.csv (power_w)")


def test_a_power_figure():
    assert energy.from_power_mj(3.06, 2.5) == pytest.approx(7.65)  # 3.06 W for 2.5 ms
    for power, latency in ((0, 1), (-1, 1), (math.nan, 1), (1, -1), (1, math.inf), (math.inf, 1)):
        with pytest.raises(ValueError, match="give a power above 0 and a time"):
            energy.from_power_mj(power, latency)


def test_a_log_is_integrated_as_by_hand():
    # 2 W, then a ramp to 6 W over 4 s, then 6 W.
    meter = log([0, 1, 2, 3, 4, 5, 6, 7, 8], [2, 2, 2, 3, 4, 5, 6, 6, 6])
    assert energy.integrate_j(meter, START, START + 8) == pytest.approx(2 * 2 + 4 * 4 + 2 * 6)
    # From the middle of a sample to the middle of another: 0.5 s at 2 W, the ramp, 0.5 s at 6 W.
    assert energy.integrate_j(meter, START + 1.5, START + 6.5) == pytest.approx(0.5 * 2 + 4 * 4 + 0.5 * 6)
    # Within the ramp: from 3.5 W to 5.5 W at its ends, 4.5 W on the average.
    fine = log(np.arange(0, 4.01, 0.1), 2 + np.arange(0, 4.01, 0.1))
    assert energy.integrate_j(fine, START + 1.55, START + 3.55) == pytest.approx(2 * 4.55)


def test_uneven_samples_weigh_by_their_time():
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.01, 1, 200))
    powers = 5 + np.sin(times)
    meter = log(times, powers)
    low, high = float(times[3] + 0.001), float(times[190] - 0.001)
    fine = np.linspace(low, high, 400_001)
    interpolated = np.interp(fine, times, powers)
    exact = float(((interpolated[1:] + interpolated[:-1]) / 2).sum() * (fine[1] - fine[0]))
    assert energy.integrate_j(meter, START + low, START + high) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(("low", "high"), [(-1, 5), (2, 9), (20, 30), (-9, -1)])
def test_a_log_must_cover_the_time(low, high):
    with pytest.raises(ValueError, match=r"runs from 2023-11-14 22:13:20 to .* the log must cover it"):
        energy.integrate_j(log(range(9), [1] * 9), START + low, START + high)


def test_a_log_must_have_samples_within_the_time():
    with pytest.raises(ValueError, match="has 4 samples within the 3.5 s measured: measure longer"):
        energy.integrate_j(log(range(9), [1] * 9), START + 1, START + 4.5)
    assert energy.integrate_j(log(range(9), [1] * 9), START + 1, START + 5) == pytest.approx(4)
    with pytest.raises(ValueError, match="ends after it starts"):
        energy.integrate_j(log(range(9), [1] * 9), START + 5, START + 5)


# RAPL.


@pytest.fixture
def powercap(tmp_path):
    """powercap(zone=(name, energy_uj), ...): a tree as Linux shows it; ranges are 1,000,000 uJ."""

    def make(**zones):
        for zone, (name, energy_uj) in zones.items():
            folder = tmp_path / zone.replace("_", ":").replace("rapl", "intel-rapl").replace("mmio", "intel-rapl-mmio")
            folder.mkdir(exist_ok=True)
            (folder / "name").write_text(f"{name}\n")
            (folder / "energy_uj").write_text(f"{energy_uj}\n")
            (folder / "max_energy_range_uj").write_text("1000000\n")
        return tmp_path

    return make


def test_packages_and_memory_count_once(powercap):
    zones = {
        "rapl_0": ("package-0", 100),
        "rapl_0_0": ("core", 60),  # part of the package
        "rapl_0_1": ("dram", 30),
        "rapl_1": ("package-1", 500),
        "rapl_2": ("psys", 900),  # holds all
        "mmio_0": ("package-0", 100),  # the same again
    }
    counters = energy.rapl(powercap(**zones))
    assert [counter.name for counter in counters] == ["package-0", "dram", "package-1"]
    before = energy.read_uj(counters)
    assert before == (100, 30, 500)
    powercap(rapl_0=("package-0", 250_100), rapl_0_1=("dram", 50_030), rapl_1=("package-1", 700_500))
    assert energy.elapsed_j(counters, before, energy.read_uj(counters)) == pytest.approx(0.25 + 0.05 + 0.7)


def test_a_counter_that_starts_again(powercap):
    counters = energy.rapl(powercap(rapl_0=("package-0", 900_000)))
    before = energy.read_uj(counters)
    powercap(rapl_0=("package-0", 50_000))
    assert energy.elapsed_j(counters, before, energy.read_uj(counters)) == pytest.approx(0.15)  # 100 mJ up, 50 mJ on


def test_no_counters_where_none_can_be_read(powercap, tmp_path):
    assert energy.rapl(tmp_path / "none") == ()
    root = powercap(rapl_0=("package-0", 1), rapl_0_0=("dram", 1))
    (root / "intel-rapl:0" / "energy_uj").unlink()
    (root / "intel-rapl:0" / "energy_uj").mkdir()  # as a file that may not be read
    assert energy.rapl(root) == ()  # memory alone is no energy of an inference
    assert energy.read_uj(()) == ()
