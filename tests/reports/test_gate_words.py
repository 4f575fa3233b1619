"""The words of the report on a slimmable network's training are those of its config."""

import pytest

from dynnas_jax.reports import gate_words


def config_of(bootstrapping=None, sparsification=None, steps=10, **dynamic):
    return {
        "train": {"bootstrapping": bootstrapping},
        "gate": {"steps": steps, "sparsification": sparsification},
        "dynamic": dynamic,
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (None, "2 random ones what averaged weights of the widest say, and the narrowest the mean of all these."),
        ({"random_paths": 1, "target": "online"}, "1 random one what the same weights of the widest say"),
        ({"ensemble": False}, "and the narrowest the same."),
        (
            {"random_paths": 0, "ensemble": False},
            "the labels, and the narrowest what averaged weights of the widest say.",
        ),
    ],
)
def test_the_supernet(options, said):
    assert said in gate_words.supernet(config_of(bootstrapping=options))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            None,
            "learn from the labels, from what an image costs, and from where the ends of the supernet say that it belongs.",
        ),
        ({"classification": 0.0, "complexity": 0.0}, "frozen. The gates learn from where the ends of the"),
        ({"sandwich": 0.0}, "learn from the labels, and from what an image costs."),
        ({"hard": "give_up"}, "that it belongs; what the widest gets wrong belongs to the narrowest."),
    ],
)
def test_the_gates(options, said):
    assert said in gate_words.gates(config_of(sparsification=options))


def test_gates_with_a_target_and_without_training():
    assert "is from the average that was asked for" in gate_words.gates(config_of(target_macs=5.0))
    assert "were not trained" in gate_words.gates(config_of(steps=0))
