"""Recalibrated statistics against NumPy's moments of all images at once."""

import jax
import numpy as np
import pytest

from dynnas_jax.masking import mask_variables
from dynnas_jax.train.calibration import batches, extract_calibrated, recalibrate


def stem_outputs(net, variables, images):
    """float64[n, h, w, c] in front of the first norm: normalised images under a 3x3 kernel, stride 1, SAME."""
    arch, kernel = net.arch, np.asarray(variables["params"]["stem"]["conv"]["kernel"], np.float64)
    x = (images / 255 - np.asarray(arch.mean)) / np.asarray(arch.std)
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel)


@pytest.fixture(scope="module")
def masked(tiny):
    """masked(genome): the largest net's variables, masked and recalibrated on four batches of four."""
    net, images = tiny.supernet.largest_net(), batches(tiny.images, 4)
    return jax.jit(lambda genome: recalibrate(net, mask_variables(tiny.supernet, tiny.variables, genome), images))


def test_first_norm_has_the_moments_of_all_images(tiny, masked):
    net = tiny.supernet.largest_net()
    outputs = stem_outputs(net, tiny.variables, tiny.images)
    found = masked(tiny.supernet.space.largest)["batch_stats"]["stem"]["norm"]
    np.testing.assert_allclose(found["mean"], outputs.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    # The mean variance of the batches lacks the variance of their means.
    by_batch = outputs.reshape(4, 4, 8, 8, -1)
    assert np.abs(by_batch.var((1, 2, 3)).mean(0) / outputs.var((0, 1, 2)) - 1).max() > 1e-3
    np.testing.assert_allclose(found["var"], outputs.var((0, 1, 2)), rtol=1e-4)


def test_params_stay(tiny, masked):
    found = masked(tiny.supernet.space.largest)
    jax.tree.map(np.testing.assert_array_equal, found["params"], tiny.variables["params"])


def test_masked_equals_sliced(tiny, masked):
    genome = np.asarray(tiny.supernet.space.sample(jax.random.key(2)))
    net, own = extract_calibrated(tiny.supernet, tiny.variables, genome, batches(tiny.images, 4))
    assert net.arch == tiny.supernet.arch(genome)
    largest = masked(genome)["batch_stats"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(own["batch_stats"]):
        found = dict(jax.tree_util.tree_leaves_with_path(largest))[path]
        np.testing.assert_allclose(found[: leaf.size], leaf, rtol=1e-3, atol=1e-4, err_msg=str(path))


def test_batches_leave_out_what_fills_none():
    images = np.arange(11).reshape(11, 1)
    np.testing.assert_array_equal(batches(images, 4), [[[0], [1], [2], [3]], [[4], [5], [6], [7]]])
    with pytest.raises(ValueError, match="11 images do not fill one batch of 12"):
        batches(images, 12)
