"""How many subnets an evaluator runs at once on a device."""

import jax

FORMS = ("auto", "mapped", "vmapped")
FASTEST = {"cpu": 4}  # genomes at once, by backend, where benchmarks/collect.py measured it; elsewhere one
# Of the images that are forwarded at once for all genomes together: as many as CIFAR-10's batches for four of them have. It
# bounds the memory, in which a genome's feature maps count most.
MOST_PIXELS = 4 * 256 * 32 * 32


def check(form: str, width: int) -> None:
    """Raises ValueError for an unknown form, or a width that does not fit it."""
    if form not in FORMS:
        raise ValueError(f"form is {form!r}, choose from {list(FORMS)}")
    if width < 0 or (form == "mapped" and width > 1):
        raise ValueError(f"width is {width}, must be {'1, or 0, in the form mapped' if width > 0 else 'at least 0'}")


def chosen(form: str, width: int, each: int, pixels: int) -> int:
    """How many of a device's `each` genomes run together; `pixels` of images are forwarded at once for one."""
    if form == "mapped":
        wanted = 1
    elif form == "vmapped" or width:
        wanted = width or each
    else:
        wanted = min(FASTEST.get(jax.default_backend(), 1), MOST_PIXELS // pixels)
    return max(divisor for divisor in range(1, each + 1) if each % divisor == 0 and (divisor <= wanted or divisor == 1))
