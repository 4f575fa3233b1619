"""What is right among some classes, and where the superclass has to be told first."""

import jax
import numpy as np
import pytest

from dynnas_jax import elastic
from dynnas_jax.data.splits import Split
from dynnas_jax.search import superclass_answers
from dynnas_jax.train.calibration import batches, recalibrate

OWNER = np.asarray([0, 1, 1, 0, 2])


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(4, 60, 5)).astype(np.float32) * 2


def test_only_images_and_logits_of_the_classes_count(logits):
    labels, classes = np.arange(60) % 5, np.asarray([1, 2, 4])
    expected = [
        max(classes, key=lambda c, row=row: row[c]) == label
        for row, label in zip(logits[0], labels, strict=True)
        if label in classes
    ]
    assert superclass_answers.right(logits[0], labels, classes).tolist() == expected


def test_the_superclass_is_the_one_of_the_highest_probability(logits):
    chances = np.exp(logits[0].astype(np.float64))
    expected = np.stack([chances[:, number == OWNER].sum(axis=1) for number in range(3)], axis=1).argmax(axis=1)
    assert superclass_answers.predicted_superclass(logits[0], OWNER).tolist() == expected.tolist()


def test_the_superclasss_own_net_answers(logits):
    labels = np.arange(60) % 5
    first, own = logits[0], list(logits[1:])
    correct, chosen = superclass_answers.right_unknown(first, own, labels, OWNER)
    for row, label in enumerate(labels):
        classes = np.flatnonzero(chosen[row] == OWNER)
        assert correct[row] == (classes[own[chosen[row]][row, classes].argmax()] == label)
    assert not correct[chosen != OWNER[labels]].any(), "a wrong superclass cannot hold the right class"


def test_masked_logits_are_the_extracted_subnets(tiny):
    split = Split(tiny.images, np.zeros(16, np.int32), np.arange(16))
    ask = superclass_answers.Logits(tiny.supernet, tiny.variables, tiny.images, split)
    genome = np.asarray(tiny.supernet.space.sample(jax.random.key(3)))
    net, own = elastic.extract(tiny.supernet, tiny.variables, genome)
    expected = net.apply(recalibrate(net, own, batches(tiny.images, 16)), tiny.images)[0]
    np.testing.assert_allclose(ask(genome), expected, atol=2e-4)
    assert ask(genome) is ask(np.asarray(tiny.supernet.space.canonical(genome)))
