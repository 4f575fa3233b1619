"""When it is best that little answers an image, as routers learn it and are judged by; NumPy and JAX alike."""

OPTIMAL = ("little_right", "little_right_or_both_wrong")


def best(little_right, big_right, optimal):
    """bool[...]: whether little should answer, from bool[...] of both nets: where it is right, or no worse than big."""
    return little_right if optimal == "little_right" else little_right | ~big_right
