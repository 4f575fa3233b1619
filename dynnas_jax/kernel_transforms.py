"""Learned kernel transforms: a smaller depthwise kernel is the centre of the next larger one times a matrix.

Cai et al. 2020, "Once-for-All" (arXiv 1908.09791), section 3.3: one matrix for each block and each step down in size, shared
by the channels. They stand in a supernet's params under `PLACE`, as {block: {"7to5": float32[25, 25], "5to3": ...}}; a net of its
own has none.
"""

import jax
import jax.numpy as jnp

PLACE = "kernel_transforms"


def identity(sides: dict[str, tuple[int, ...]]) -> dict:
    """The transforms of blocks with kernels of these sides that leave every centre as it is."""
    found = {}
    for block, own in sides.items():
        steps = zip(sorted(own)[1:], sorted(own)[:-1], strict=True)
        found[block] = {f"{large}to{small}": jnp.eye(small**2, dtype=jnp.float32) for large, small in steps}
    return found


def centre(kernel: jax.Array, side: int) -> jax.Array:
    """The centred window [side, side, ...] of a kernel [k, k, ...]."""
    edge = (kernel.shape[0] - side) // 2
    return kernel[edge : edge + side, edge : edge + side]


def smaller(kernel: jax.Array, side: int, matrices: dict[str, jax.Array]) -> jax.Array:
    """kernel[k, k, 1, c] -> [side, side, 1, c], size after size.

    Raises:
      ValueError: if there is no matrix from a size on the way.
    """
    while (size := kernel.shape[0]) > side:
        step = next((name for name in matrices if name.startswith(f"{size}to")), None)
        if step is None:
            raise ValueError(
                f"there is no kernel transform from {size} to {side}, only {', '.join(matrices) or 'none'}"
            )
        window = centre(kernel, int(step.partition("to")[2]))
        kernel = (jnp.asarray(matrices[step]) @ window.reshape(-1, window.shape[-1])).reshape(window.shape)
    return kernel


def candidates(kernel: jax.Array, sides: tuple[int, ...], matrices: dict[str, jax.Array]) -> jax.Array:
    """float[len(sides), k, k, 1, c]: the kernel at each size, zeros around it."""
    padded = []
    for side in sides:
        edge = (kernel.shape[0] - side) // 2
        padded.append(jnp.pad(smaller(kernel, side, matrices), ((edge, edge), (edge, edge), (0, 0), (0, 0))))
    return jnp.stack(padded)
