"""The fit of blocks to whole nets: figures of a device whose time is a known function of what runs on it."""

import numpy as np
import pytest

from dynnas_jax.export.latency_table import EMPTY, FEWEST_NETS, Part, fit

CALL, IN_A_NET, OVERHEAD = 0.5, 1.25, 2.0


def made_up(nets=12, noise=0.0, blocks=20):
    """(parts, samples, what each block adds to a net): alone a block takes CALL more than the work that a net multiplies."""
    generator = np.random.default_rng(0)
    work = generator.uniform(0.1, 3, blocks)
    parts = [Part(f"b{i}", None) for i in range(blocks)]
    times = (CALL + work).tolist()
    parts.append(EMPTY)
    times.append(CALL)
    for i in range(nets):
        inside = generator.choice(blocks, generator.integers(2, 9), replace=False)
        parts.append(Part(f"net{i}", None, tuple(f"b{j}" for j in inside)))
        times.append(OVERHEAD + IN_A_NET * work[inside].sum())
    samples = np.asarray(times) * np.exp(noise * generator.normal(size=(9, len(times))))
    return parts, samples, IN_A_NET * work


def test_the_call_of_a_block_alone_is_taken_off_and_the_cache_put_on():
    parts, samples, added = made_up()
    found = fit(parts, samples)
    assert found.overhead_ms == pytest.approx(OVERHEAD)
    np.testing.assert_allclose([found.block_ms[f"b{i}"][0] for i in range(len(added))], added, rtol=1e-6)
    assert found.how["median_error"] < 1e-9
    assert found.how["nets"] == 12


def test_noise_is_averaged_out():
    parts, samples, added = made_up(nets=60, noise=0.02)
    found = fit(parts, samples)
    errors = [abs(found.block_ms[f"b{i}"][0] / added[i] - 1) for i in range(len(added))]
    assert np.median(errors) < 0.03
    assert 0.001 < found.how["median_error"] < 0.02
    spreads = np.asarray([spread for _, spread in found.block_ms.values()])
    assert (spreads > 0).all()


def test_no_block_gets_a_negative_time():
    """Blocks that seem faster than a call, and nets that take no longer for them."""
    parts, _, _ = made_up()
    times = [1.0 if part.blocks or part is EMPTY else 0.9 + 0.01 * i for i, part in enumerate(parts)]
    found = fit(parts, np.asarray([times] * 3))
    assert all(ms >= 0 for ms, _ in found.block_ms.values())
    assert found.overhead_ms == pytest.approx(1.0, rel=0.1)


def test_too_few_nets():
    parts, samples, _ = made_up(nets=FEWEST_NETS - 1)
    with pytest.raises(ValueError, match=f"3 nets to fit the blocks to, must be at least {FEWEST_NETS}"):
        fit(parts, samples)
