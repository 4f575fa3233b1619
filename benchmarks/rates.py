"""How fast a machine is at the most, measured or as published, and how long a program takes at those rates at the least."""

import time

import chips
import jax
import jax.numpy as jnp

CHIPS = {"v5e": chips.V5E, "h100": chips.H100}


def peak_ops_per_s(dtype: str) -> float:
    """Operations per second, two per multiply-accumulate, of a large matrix product, at best."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((side, side), dtype)
    return 2 * side**3 / least_s(jax.jit(jnp.matmul), a, a)


def bandwidth_bytes_per_s() -> float:
    """Bytes read and written per second by a large copy, at best."""
    array = jnp.ones((2**26 if jax.default_backend() == "cpu" else 2**28,), jnp.float32)
    return 2 * array.nbytes / least_s(jax.jit(lambda x: x + 1), array)


def least_s(function, *arguments, runs: int = 5) -> float:
    jax.block_until_ready(function(*arguments))
    return min(seconds(function, *arguments) for _ in range(runs))


def seconds(function, *arguments) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def floor(executed_macs: int, bytes_accessed: float, chip: str | None, precision: str) -> dict:
    """The least time of a step by its operations and by its bytes, and the rates they are divided by."""
    published = CHIPS.get(chip)
    peak = published.matrix_flops[precision] if published else peak_ops_per_s(precision)
    bandwidth = published.memory_bytes_per_s if published else bandwidth_bytes_per_s()
    return {
        "rates": f"published, {chip}" if published else "measured",
        "peak_gops_per_s": round(peak / 1e9, 1),
        "bandwidth_gb_per_s": round(bandwidth / 1e9, 2),
        "by_operations_ms": round(2e3 * executed_macs / peak, 3),
        "by_bytes_ms": round(1e3 * bytes_accessed / bandwidth, 3),
    }
