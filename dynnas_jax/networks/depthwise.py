"""Two other ways to compute a depthwise convolution, equal to the grouped one.

As shifted products, which XLA runs many times faster on a CPU, gradients too; as a sum of narrow ones, for LiteRT.

With stride s the padded input is split into s x s phases, so that every shift reads a contiguous window:
out[o] = sum over i of phase[i % s][o + i // s] * kernel[i], along both axes.

Images may be of a coarser dtype than the kernel's, such as bfloat16: sums are in the kernel's, results in the images'.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

MOST_TAPS = 25  # of one depthwise kernel in LiteRT's fast loops; beyond, each channel becomes a convolution of its own

# {(row phase, column phase): [b, rows, columns, c]}: apart, since XLA copies an array with axes of length 1 for its layout.
Phases = dict[tuple[int, int], jax.Array]


def bands(kernel: int) -> list[tuple[int, ...]]:
    """The columns of a square kernel in parts of at most `MOST_TAPS` taps where that can be: the middle, and mirrored pairs.

    Evenly spaced and about the middle each, so that a part is itself a convolution, dilated, with padding of the same kind.
    """
    middle = max((w for w in range(1, kernel + 1, 2) if kernel * w <= MOST_TAPS), default=1)
    edge = (kernel - middle) // 2
    return [tuple(range(edge, edge + middle)), *((i, kernel - 1 - i) for i in reversed(range(edge)))]


def depthwise_bands(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple) -> jax.Array:
    """Arguments and result as `depthwise_shifts`, in the images' dtype: as many multiplications as the whole kernel's.

    LiteRT on x86 takes an eighth of the time of the whole 7x7 one in float32, a thirtieth in int8.
    """
    parts, (rows, (low, high)) = [], padding
    for columns in bands(kernel.shape[0]):
        behind = kernel.shape[1] - 1 - columns[-1]
        step = columns[1] - columns[0] if len(columns) > 1 else 1
        parts.append(
            jax.lax.conv_general_dilated(
                x,
                kernel[:, columns[0] : columns[-1] + 1 : step].astype(x.dtype),
                (stride, stride),
                (rows, (low - columns[0], high - behind)),
                rhs_dilation=(1, step),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=x.shape[-1],
            )
        )
    return functools.reduce(jnp.add, parts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_shifts(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple) -> jax.Array:
    """x[b, h, w, c], kernel[k, k, 1, c], padding ((low, high), (low, high)) -> [b, h', w', c]; equals the grouped convolution."""
    return _forward_rule(x, kernel, stride, padding)[0]


def _taps(kernel: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(kernel) for j in range(kernel)]


def _output_size(size: int, pad: tuple[int, int], kernel: int, stride: int) -> int:
    return (size + sum(pad) - kernel) // stride + 1


def _phase_axis(size: int, low: int, count: int, stride: int, phase: int) -> tuple[int, int, int]:
    """(first, before, behind): the phase holds x[first::stride], with zeros before and behind it, `count` in all."""
    before = max(0, -(-(low - phase) // stride))
    first = phase + before * stride - low
    return first, before, count - before - len(range(first, size, stride))


def _phases(x: jax.Array, kernel: int, stride: int, padding: tuple) -> Phases:
    """The phases of the padded input; each is h' + ceil(k / s) - 1 rows high, and as wide for w'."""
    reach = -(-kernel // stride) - 1
    counts = [_output_size(n, pad, kernel, stride) + reach for n, pad in zip(x.shape[1:3], padding, strict=True)]
    phases = {}
    for phase in _taps(min(stride, kernel)):
        (top, above, below), (left, before, behind) = (
            _phase_axis(n, pad[0], count, stride, p)
            for n, pad, count, p in zip(x.shape[1:3], padding, counts, phase, strict=True)
        )
        config = ((0, 0, 0), (above, below, 0), (before, behind, 0), (0, 0, 0))
        phases[phase] = jax.lax.pad(x[:, top::stride, left::stride], jnp.zeros((), x.dtype), config)
    return phases


def _window(phases: Phases, i: int, j: int, stride: int, height: int, width: int) -> jax.Array:
    """The [b, height, width, c] of a phase that tap (i, j) multiplies."""
    top, left = i // stride, j // stride
    return phases[i % stride, j % stride][:, top : top + height, left : left + width]


def _term(window: jax.Array, kernel: jax.Array, i: int, j: int) -> jax.Array:
    """[b, h', w', c] times the kernel's tap, in the kernel's dtype."""
    return window.astype(kernel.dtype) * kernel[i, j, 0][None, None, None]


def _shifted_sum(phases: Phases, kernel: jax.Array, stride: int, height: int, width: int) -> jax.Array:
    taps = _taps(kernel.shape[0])
    terms = (_term(_window(phases, i, j, stride, height, width), kernel, i, j) for i, j in taps)
    return functools.reduce(jnp.add, terms).astype(phases[0, 0].dtype)


def _forward_rule(x, kernel, stride, padding):
    k = kernel.shape[0]
    size = (_output_size(n, pad, k, stride) for n, pad in zip(x.shape[1:3], padding, strict=True))
    phases = _phases(x, k, stride, padding)
    # The phases are kept for the gradient of the kernel, which reads them again.
    return _shifted_sum(phases, kernel, stride, *size), (phases, kernel, x.shape[1:3])


def _input_gradient(kernel, gradient, size, stride, padding):
    """The same sum with the flipped kernel, phase by phase, then the phases interleaved and the padding cut off."""
    k = kernel.shape[0]
    if stride == 1:
        outer = tuple((k - 1 - low, k - 1 - high) for low, high in padding)
        return _shifted_sum(_phases(gradient, k, 1, outer), kernel[::-1, ::-1], 1, *size)
    reach = -(-k // stride) - 1
    b, rows, columns, c = (n + m for n, m in zip(gradient.shape, (0, reach, reach, 0), strict=True))
    padded = jnp.pad(gradient, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    sums = {phase: jnp.zeros((b, rows, columns, c), kernel.dtype) for phase in _taps(stride)}
    for i, j in _taps(k):
        top, left = reach - i // stride, reach - j // stride
        sums[i % stride, j % stride] += _term(padded[:, top : top + rows, left : left + columns], kernel, i, j)
    sums = {phase: total.astype(gradient.dtype) for phase, total in sums.items()}
    stacked = jnp.stack([jnp.stack([sums[p, q] for q in range(stride)], 3) for p in range(stride)], 2)
    full = stacked.reshape(b, rows * stride, columns * stride, c)
    config = [(0, 0, 0)]
    for n, pad, count in zip(size, padding, (rows, columns), strict=True):
        config.append((-pad[0], n + pad[0] - count * stride, 0))
    return jax.lax.pad(full, jnp.zeros((), gradient.dtype), [*config, (0, 0, 0)])


def _kernel_gradient(phases, kernel, gradient, stride):
    """Reductions accumulated a few images at a time, so that the k * k products never stand in memory together.

    A product with ones sums each: it runs as a vectorised matrix product, which a reduction over strided axes does not. One
    loop over a phase's taps: unrolled, each product would be compiled by itself, and runs slower.
    """
    k, (batch, height, width, channels) = kernel.shape[0], gradient.shape
    # Some 512 rows keep the products in cache and the number of iterations small.
    images = max(n for n in range(1, batch + 1) if batch % n == 0 and n <= max(1, 512 // (height * width)))
    ones = jnp.ones((images * height * width,), kernel.dtype)

    def accumulate(total, pair):
        some, out = jax.tree.map(lambda array: array.astype(kernel.dtype), pair)
        for (p, q), phase in some.items():
            rows, columns = len(range(p, k, stride)), len(range(q, k, stride))

            def tap(number, phase=phase, columns=columns):
                corner = (jnp.int32(0), number // columns, number % columns, jnp.int32(0))
                window = jax.lax.dynamic_slice(phase, corner, (images, height, width, channels))
                return ones @ (window * out).reshape(-1, channels)

            sums = jax.lax.map(tap, jnp.arange(rows * columns, dtype=jnp.int32))
            own = sums.reshape(rows, columns, 1, channels)
            # Of stride 1 the phase is the whole; `at` with it makes an empty array of indices, at which JAX 0.11.2 crashes
            # while it compiles for several devices.
            total = total + own if stride == 1 else total.at[p::stride, q::stride].add(own)
        return total, None

    grouped = jax.tree.map(lambda array: array.reshape(batch // images, images, *array.shape[1:]), (phases, gradient))
    return jax.lax.scan(accumulate, jnp.zeros(kernel.shape, kernel.dtype), grouped)[0]


def _backward_rule(stride, padding, residuals, gradient):
    phases, kernel, size = residuals
    return (
        _input_gradient(kernel, gradient, size, stride, padding),
        _kernel_gradient(phases, kernel, gradient, stride),
    )


depthwise_shifts.defvjp(_forward_rule, _backward_rule)
