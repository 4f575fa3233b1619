"""Phases: what they unlock and when, and that random genomes keep to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.networks import ofa
from dynnas_jax.train import progressive_shrinking

STEPS = 1000


@pytest.fixture(scope="module")
def space():
    """Three values of every kind; a resolution too."""
    return ofa.small_images(
        image_size=16, resolutions=(8, 12), stage_widths=(8, 16), stage_strides=(1, 2), widths=(0.25, 0.5, 1.0), depths=(1, 2, 3),
        kernels=(3, 5, 7), expands=(1, 2, 4), divisor=2,
    ).space  # fmt: skip


def least_by_kind(space, phases, step):
    """{kind: smallest usable index}; equal for all genes of a kind here."""
    found = {}
    for gene, least in zip(space.genes, phases.on_host(step).least.tolist(), strict=True):
        found.setdefault(progressive_shrinking.kind_of(gene.name), set()).add(least)
    assert all(len(values) == 1 for values in found.values())
    return {kind: values.pop() for kind, values in found.items()}


def test_the_default_order(space):
    phases = progressive_shrinking.schedule(space, STEPS, random_subnets=2, largest_share=0.2)
    assert phases.first_step.tolist() == [0, 200, 400, 600, 800]
    unlocked = []
    for first in phases.first_step:
        least = least_by_kind(space, phases, int(first))
        assert least.pop("resolution") == 0
        unlocked.append({kind for kind, index in least.items() if index == 0})
        assert set(least.values()) <= {0, 2}
    assert unlocked == [
        set(),
        {"kernel"},
        {"kernel", "depth"},
        {"kernel", "depth", "expand"},
        {"kernel", "depth", "expand", "width"},
    ]


def test_values_one_by_one_rates_and_subnets(space):
    phases = (
        {"share": 0.1, "unlock": (), "random_subnets": 0},
        {"share": 0.2, "unlock": {"depth": 2, "width": 2}, "learning_rate": 0.5},
        {"share": 0.3, "unlock": ("depth", "kernel"), "random_subnets": 3},
        {"share": 0.4, "unlock": {"width": 3, "expand": 3, "resolution": 3}, "learning_rate": 0.1, "random_subnets": 1},
    )
    made = progressive_shrinking.schedule(space, STEPS, random_subnets=2, phases=phases)
    assert made.most_subnets == 3
    expected = {
        0: ({"kernel": 2, "depth": 2, "expand": 2, "width": 2, "resolution": 2}, 0, 1.0),
        100: ({"kernel": 2, "depth": 1, "expand": 2, "width": 1, "resolution": 2}, 2, 0.5),
        300: ({"kernel": 0, "depth": 0, "expand": 2, "width": 1, "resolution": 2}, 3, 1.0),
        600: ({"kernel": 0, "depth": 0, "expand": 0, "width": 0, "resolution": 0}, 1, 0.1),
    }
    assert made.first_step.tolist() == list(expected)
    for step, (least, subnets, rate) in expected.items():
        assert least_by_kind(space, made, step) == least
        assert made.on_host(step).random_subnets == subnets
        assert made.on_host(step).learning_rate == np.float32(rate)


def test_traced_steps_find_the_phase_of_the_host(space):
    made = progressive_shrinking.schedule(space, STEPS, random_subnets=2)
    at = jax.jit(made.at)
    for step in (0, 1, *(int(s) + d for s in made.first_step[1:] for d in (-1, 0, 1)), STEPS - 1):
        jax.tree.map(np.testing.assert_array_equal, at(jnp.int32(step)), made.on_host(step))
    assert at._cache_size() == 1


def test_random_genomes_use_unlocked_values_only_and_all_of_them(space):
    made = progressive_shrinking.schedule(space, STEPS, random_subnets=2)
    sample = jax.jit(lambda key, step: space.sample(key, 200, made.at(step).least))
    for first in made.first_step.tolist():
        genomes, least = np.asarray(sample(jax.random.key(first), jnp.int32(first))), made.on_host(first).least
        np.testing.assert_array_equal(genomes.min(axis=0), least)
        np.testing.assert_array_equal(genomes.max(axis=0), space.largest)
    assert sample._cache_size() == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"order": ("kernl",)}, "unlocks 'kernl', which no gene of the space is; did you mean 'kernel'"),
        ({"order": ()}, "order unlocks nothing"),
        ({"order": ("kernel", "depth", "width")}, "'expand' stays locked to the end"),
        ({"largest_share": 1.0}, "largest_share is 1.0"),
        ({"phases": ({"share": 1.0, "unlock": ()},)}, "the phases unlock nothing"),
        ({"phases": ({"share": 0.5, "unlock": ("kernel",)},)}, "sum to 0.5, must be 1"),
        ({"phases": ({"share": 1.0, "unlock": "kernel"},)}, "must be a tuple of kinds"),
        ({"phases": ({"share": 1.0, "unlock": {"kernel": 0}},)}, "unlocks 0 values of 'kernel'"),
        ({"phases": ({"share": 1.0, "unlock": {"kernel": 4}},)}, "unlocks 4 values of 'kernel', which has at most 3"),
        ({"phases": ({"share": 1.0, "unlocks": ("kernel",)},)}, "must be a dict with share and unlock"),
        ({"phases": ({"share": -1.0, "unlock": ("kernel",)},)}, "has share -1.0"),
        ({"phases": ({"share": 1.0, "unlock": ("kernel",), "random_subnets": -1},)}, "random_subnets -1"),
        ({"phases": ({"share": 1.0, "unlock": ("kernel",), "learning_rate": -1.0},)}, "learning_rate -1.0"),
        ({"phases": ({"share": 1.0, "unlock": {"kernel": 2, "depth": 3, "expand": 3, "width": 3}},)}, "not wholly unlocked"),
    ],
)  # fmt: skip
def test_schedules_that_make_no_sense(space, options, said):
    with pytest.raises(ValueError, match="progressive_shrinking") as caught:
        progressive_shrinking.schedule(space, STEPS, random_subnets=2, **options)
    assert said in str(caught.value)


def test_more_phases_than_steps(space):
    with pytest.raises(ValueError, match="5 phases do not fit 3 steps"):
        progressive_shrinking.schedule(space, 3, random_subnets=2)
