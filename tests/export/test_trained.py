"""A trained net keeps its accuracy in the files: fp32 answers as JAX does, the others lose at most a point."""

import jax
import numpy as np
import pytest

from dynnas_jax import devices
from dynnas_jax.data import sources
from dynnas_jax.export import engines, metadata, tflite
from dynnas_jax.networks import ofa
from dynnas_jax.train import calibration, loop, sandwich


@pytest.fixture(scope="module")
def trained(quick_programs):
    """(net, its variables, the digits)."""
    digits = sources.load("digits", holdout=0)
    options = {
        "stem": 8,
        "stage_widths": (16, 24),
        "stage_strides": (1, 2),
        "head": 32,
        "depths": (1,),
        "kernels": (3,),
    }
    moments = {"mean": digits.mean, "std": digits.std}
    supernet = ofa.small_images(
        image_size=8, channels=1, widths=(1.0,), expands=(1, 2), depthwise="shifts", **options, **moments
    )
    with quick_programs():
        optimizer, mesh = {"learning_rate": 0.2}, devices.data_mesh(1)
        rule = sandwich.rule(random_subnets=0)
        final = loop.fit(supernet, digits.train, rule, steps=150, ema_decay=0.9, optimizer=optimizer, mesh=mesh)
        images = calibration.batches(digits.train.images[:1024], 128)
        largest = supernet.space.largest
        net, variables = calibration.extract_calibrated(supernet, final.averaged, largest, images)
    return net.clone(depthwise="conv"), variables, digits


def test_accuracy_in_every_precision(trained, tmp_path):
    net, variables, digits = trained
    test = digits.test
    expected = np.asarray(jax.jit(lambda x: net.apply(variables, x)[0])(test.images)).argmax(-1)
    accuracy = (expected == test.labels).mean()
    assert accuracy > 0.9  # it has learnt
    answers = {}
    for precision in metadata.PRECISIONS:
        path = tmp_path / f"{precision}.tflite"
        inputs = digits.train.images[:128]
        tflite.convert(
            lambda x: net.apply(variables, x)[0], (1, 8, 8, 1), path, precision=precision, calibration=inputs
        )
        (model,) = engines.load(path).values()
        answers[precision] = np.array([model.run(image)["logits"].argmax() for image in test.images])
    np.testing.assert_array_equal(answers["fp32"], expected)
    for precision in metadata.PRECISIONS:
        assert (answers[precision] == test.labels).mean() >= accuracy - 0.01, precision
