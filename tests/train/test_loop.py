"""Training on one device and on eight, broken off and resumed, and stopped where the loss is not finite."""

import functools
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import devices
from dynnas_jax.data import augment, mixing
from dynnas_jax.data.resize import resized
from dynnas_jax.elastic import init
from dynnas_jax.networks import ofa
from dynnas_jax.train import attempt, loop, progressive_shrinking, rules, sandwich, state
from dynnas_jax.train.step import make_step

STEPS = 6


def fit(micro, split, count, directory, *, subnet=1, random_subnets=1, **options):
    return loop.fit(
        micro,
        split,
        sandwich.rule(random_subnets=random_subnets),
        steps=STEPS,
        batch_size=16,
        optimizer={"learning_rate": 0.05, "warm_up": 0.2},
        augment=augment.rule(pad=1),
        mesh=devices.data_mesh(count, subnet),
        directory=directory,
        log_every=1,
        evaluate=lambda variables: {"holdout_accuracy_largest": float(jax.tree.leaves(variables)[0].size)},
        evaluate_every=4,
        **{"checkpoint_every": 2, **options},
    )


def rows(directory):
    """The logged lines without their times."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("time_s", "images_per_s", "wait_share")} for row in lines]


@pytest.fixture(scope="module")
def unbroken(micro, split, tmp_path_factory):
    """(directory, state) of a run on one device."""
    directory = tmp_path_factory.mktemp("unbroken")
    return directory, fit(micro, split, 1, directory)


def test_every_step_is_logged(unbroken):
    found = rows(unbroken[0])
    assert [row["step"] for row in found] == [1, 2, 3, 4, 4, 5, 6, 6]
    assert set(found[0]) == {
        "step",
        "loss",
        "loss_largest",
        "loss_smallest",
        "loss_random",
        "accuracy_largest",
        "gradient_norm",
        "learning_rate",
    }
    assert set(found[4]) == {"step", "holdout_accuracy_largest"}
    assert len({row["loss"] for row in found if "loss" in row}) == STEPS


def test_state_counts_steps_and_averages(unbroken):
    final = unbroken[1]
    assert int(final.step) == STEPS
    assert int(final.bad_step) == -1
    variables = final.averaged
    assert variables["batch_stats"] is final.variables["batch_stats"]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), variables["params"], final.variables["params"])
    assert max(jax.tree.leaves(moved)) > 1e-4


def assert_within_rounding(directory, final, unbroken):
    """As the run on one device, but for the order in which devices add up."""
    for one, other in zip(rows(unbroken[0]), rows(directory), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_allclose(other[name], value, rtol=2e-4, atol=1e-6, err_msg=f"{name}, step {one['step']}")

    def same(path, one, other):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-3 * max(0.1, np.abs(one).max()), err_msg=str(path))

    jax.tree_util.tree_map_with_path(same, unbroken[1].variables, final.variables)


def test_eight_devices_equal_one(micro, split, unbroken, tmp_path):
    assert_within_rounding(tmp_path, fit(micro, split, 8, tmp_path), unbroken)


def test_devices_that_share_random_subnets_equal_one(micro, split, tmp_path):
    one, shared = tmp_path / "one", tmp_path / "shared"
    expected = one, fit(micro, split, 1, one, random_subnets=2)
    assert_within_rounding(shared, fit(micro, split, 8, shared, subnet=2, random_subnets=2), expected)


def test_another_number_of_devices_goes_on_where_one_was_killed(micro, split, unbroken, tmp_path):
    directory = shutil.copytree(unbroken[0], tmp_path / "run")
    for step in ("4", "6"):
        shutil.rmtree(directory / "checkpoints" / step, ignore_errors=True)
    assert_within_rounding(directory, fit(micro, split, 4, directory), unbroken)


def test_several_steps_a_call_equal_one_a_call_and_resume_exactly(micro, split, unbroken, tmp_path):
    """Calls of 4, 1, 1 steps: the checkpoint of step 2 would lie within the first, so only those of 4 and 6 are asked for."""
    options = {"steps_per_call": 4, "checkpoint_every": 4}
    final = fit(micro, split, 1, tmp_path / "whole", **options)
    for one, several in zip(rows(unbroken[0]), rows(tmp_path / "whole"), strict=True):
        assert one.keys() == several.keys()
        for name, value in one.items():
            np.testing.assert_allclose(several[name], value, rtol=2e-4, atol=1e-6, err_msg=name)
    directory = shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(directory / "checkpoints" / "6")
    jax.tree.map(np.testing.assert_array_equal, fit(micro, split, 1, directory, **options), final)


def test_a_rule_is_told_how_far_training_is(micro, split, tmp_path):
    """The share of the steps that is done before each, of a run that is broken off and resumed."""

    def rule(supernet, axis_name=None, answers=None):
        def objective(given, images, labels, key):
            still = jax.tree.map(jnp.zeros_like, given.variables["params"])
            return rules.Update(still, given.variables["batch_stats"], {"loss": given.progress})

        return objective

    options = {"steps": 5, "batch_size": 16, "log_every": 1, "checkpoint_every": 3, "trackers": ()}
    for _ in range(2):
        loop.fit(micro, split, rule, mesh=devices.data_mesh(2), directory=tmp_path, **options)
        assert [row["loss"] for row in rows(tmp_path)] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
        shutil.rmtree(tmp_path / "checkpoints" / "5")


def test_the_step_compiles_once_for_each_number_of_steps(micro, split):
    transform, key = state.optimizer(10).transform, jax.random.key(0)
    mesh = devices.data_mesh(8)
    step = make_step(micro, sandwich.rule(random_subnets=1), transform, mesh)
    images, labels = devices.replicated(mesh, (split.images, split.labels))
    current = devices.replicated(mesh, state.create(init(micro.largest_net(), key, (8, 8, 1)), transform))
    for first in (0, 3, 6):
        before = jax.tree.leaves(current.variables)
        current, metrics = step(current, images, labels, np.arange(48, dtype=np.int32).reshape(3, 16) % 40, key)
        assert all(leaf.is_deleted() for leaf in before)  # donated: never two states in memory
        assert metrics["loss"].shape == (3,)
        assert int(current.step) == first + 3
    current, metrics = step(current, images, labels, np.arange(16, dtype=np.int32), key)
    assert metrics["loss"].shape == ()
    assert step._cache_size() == 2


def test_the_rule_gets_labels_and_mixed_images_and_targets(micro, split, tmp_path):
    """A rule that only reports the sums of what it is given."""

    def rule(supernet, axis, answers):
        def objective(given, images, labels, key, targets):
            seen = {"loss": images.astype(jnp.float32), "labels": labels.astype(jnp.float32), "targets": targets[:, 2]}
            nothing = jax.tree.map(jnp.zeros_like, given.variables["params"])
            return rules.Update(nothing, given.variables["batch_stats"], {k: v.mean() for k, v in seen.items()})

        return objective

    mesh, log = devices.data_mesh(2), {"directory": tmp_path, "log_every": 1}
    mix = lambda key, images, labels: (images // 2, 0.5 * labels)  # noqa: E731 - one line says it all
    loop.fit(micro, split, rule, steps=1, batch_size=40, mix=mix, mesh=mesh, **log)
    (row,) = rows(tmp_path)
    assert row["loss"] == pytest.approx((split.images // 2).mean(), rel=1e-5)
    assert row["labels"] == pytest.approx(split.labels.mean(), rel=1e-5)
    assert row["targets"] == pytest.approx(0.5 * np.mean(split.labels == 2), rel=1e-5)


def test_mixing_and_randaugment_on_eight_devices_equal_one():
    """What is drawn for the global batch, split over the devices or not."""
    images, labels = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8), np.eye(16, dtype=np.float32)
    rule, mix = augment.rule(pad=1, operations=1, brightness=0.2), mixing.rule(mixup=0.4, cutmix=1.0)
    both = lambda key, x, y: mix(key, rule(key, x), y)  # noqa: E731 - one line says it all
    placed = [
        jax.sharding.NamedSharding(devices.data_mesh(8), jax.sharding.PartitionSpec(axis)) for axis in ("data", None)
    ]
    for out, expected in zip(
        *(jax.jit(both, out_shardings=place)(jax.random.key(0), images, labels) for place in placed), strict=True
    ):
        np.testing.assert_allclose(out, expected, atol=1e-6)


def test_resumed_equals_unbroken(micro, split, unbroken, tmp_path):
    """Killed behind step 6 while a line was written, before that step's checkpoint was complete."""
    directory = shutil.copytree(unbroken[0], tmp_path / "run")
    shutil.rmtree(directory / "checkpoints" / "6")
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "holdo')
    final = fit(micro, split, 1, directory)
    jax.tree.map(np.testing.assert_array_equal, final, unbroken[1])
    assert rows(directory) == rows(unbroken[0])
    assert (directory / "checkpoints" / "6").is_dir()


def test_a_fresh_run_starts_from_given_variables_and_leaves_them_alone(micro, split, noisy_variables, monkeypatch):
    @functools.partial(jax.jit, donate_argnums=0, static_argnames="resolution")
    def step(current, *_, resolution):
        return current._replace(step=current.step + 1), {"loss": jax.numpy.zeros(())}

    monkeypatch.setattr(loop, "make_step", lambda *_, **__: step)
    initial = jax.tree.map(jax.numpy.asarray, noisy_variables(micro.largest_net(), (8, 8, 1)))
    final = fit(micro, split, 1, None, initial=initial)
    jax.tree.map(np.testing.assert_array_equal, final.variables, initial)
    jax.tree.map(np.testing.assert_array_equal, final.ema, initial["params"])


def test_a_resumed_run_does_not_start_anew(micro, split, unbroken, tmp_path, noisy_variables):
    directory = shutil.copytree(unbroken[0], tmp_path / "run")
    final = fit(micro, split, 1, directory, initial=noisy_variables(micro.largest_net(), (8, 8, 1)))
    jax.tree.map(np.testing.assert_array_equal, final, unbroken[1])


def test_variables_of_another_net(micro, split, noisy_variables):
    initial = noisy_variables(micro.net(micro.arch(micro.space.smallest)), (8, 8, 1))
    with pytest.raises(ValueError, match="initial variables are not those of this supernet's largest net"):
        fit(micro, split, 1, None, initial=initial)


def test_a_loss_that_is_not_finite_stops_the_run(micro, split, tmp_path):
    with pytest.raises(ValueError, match=r"loss of step \d+ is not finite|averaged params are not finite") as error:
        loop.fit(
            micro,
            split,
            sandwich.rule(random_subnets=0),
            steps=20,
            batch_size=8,
            optimizer={"learning_rate": 1e30, "warm_up": 0.1},
            mesh=devices.data_mesh(1),
            directory=tmp_path,
            checkpoint_every=1,
        )
    # What was being written is complete, and the first step, of rate 0, was a good one.
    saved = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    assert 1 in saved
    assert f"the last good checkpoint is of step {max(saved)}" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 12}, "batch_size 12 does not divide over 8 devices"),
        ({"batch_size": 0}, "batch_size 0 does not divide"),
        ({"batch_size": 48}, "batch_size 48 exceeds the 40 training images"),
        ({"batch_size": 16, "steps": 0}, "steps is 0, must be at least 1"),
    ],
)
def test_wrong_options(micro, split, options, message):
    with pytest.raises(ValueError, match=message):
        loop.fit(micro, split, sandwich.rule(), **{"steps": 1, **options}, mesh=devices.data_mesh(8))


def test_a_step_at_a_resolution_is_one_on_resized_images(micro, split):
    """The images smaller from the start, or made so within the step."""
    transform, key = state.optimizer(10).transform, jax.random.key(0)
    labels, indices = jnp.asarray(split.labels), jnp.arange(16, dtype=jnp.int32)
    fresh = lambda: state.create(init(micro.largest_net(), key, (8, 8, 1)), transform)  # noqa: E731 - donated
    step = make_step(micro, sandwich.rule(random_subnets=1), transform, devices.data_mesh(1))
    inside, metrics = step(fresh(), jnp.asarray(split.images), labels, indices, key, resolution=6)
    before, expected = step(fresh(), resized(jnp.asarray(split.images), 6), labels, indices, key)
    jax.tree.map(np.testing.assert_array_equal, (inside, metrics), (before, expected))


def test_resolutions_are_drawn_by_step_and_seed():
    supernet = ofa.small_images(image_size=16, resolutions=(8, 12), stage_widths=(8,), stage_strides=(1,))
    drawn = [attempt.drawn_resolution(supernet, step, 0) for step in range(900)]
    assert drawn == [attempt.drawn_resolution(supernet, step, 0) for step in range(900)]
    assert drawn != [attempt.drawn_resolution(supernet, step, 1) for step in range(900)]
    assert all(250 <= drawn.count(side) <= 350 for side in (8, 12, 16))


def test_a_resolution_that_a_phase_unlocks_is_drawn_from_then_on_and_compiles_once(split, tmp_path):
    supernet = ofa.small_images(
        image_size=8, resolutions=(4, 6), channels=1, mean=(0.4,), std=(0.3,), classes=3, stem=4, stage_widths=(8,), head=8,
        stage_strides=(2,), widths=(1.0,), depths=(1,), kernels=(3, 5), expands=(1,), divisor=4,
    )  # fmt: skip
    unlocked = ({"kernel": 2}, {"resolution": 2}, {"resolution": 3})
    phases = progressive_shrinking.schedule(
        supernet.space, 60, random_subnets=0, phases=[{"share": 1 / 3, "unlock": kinds} for kinds in unlocked]
    )
    drawn = [attempt.drawn_resolution(supernet, step, 0, phases) for step in range(60)]
    assert [set(drawn[first : first + 20]) for first in (0, 20, 40)] == [{8}, {6, 8}, {4, 6, 8}]
    transform, key = state.optimizer(60).transform, jax.random.key(0)
    step = make_step(supernet, sandwich.rule(random_subnets=0), transform, devices.data_mesh(1), phases=phases)
    current = state.create(init(supernet.largest_net(), key, (8, 8, 1)), transform)
    for number in (0, 1, 19, drawn.index(6), 30, 39, drawn.index(4), 50, 59):
        batch = jnp.asarray(split.images), jnp.asarray(split.labels), jnp.arange(8, dtype=jnp.int32)
        current, _ = step(current._replace(step=jnp.int32(number)), *batch, key, resolution=drawn[number])
    # Three resolutions; the very first state is not on the mesh yet, which makes one program more.
    assert 3 <= step._cache_size() <= 4


def test_phases_change_the_rate_and_nothing_compiles_anew(micro, split, tmp_path):
    """Five phases; in the second the rate is zero, so nothing moves."""
    kinds = ("kernel", "expand", "width")
    phases = progressive_shrinking.schedule(
        micro.space,
        5,
        random_subnets=1,
        phases=(
            {"share": 0.2, "unlock": (), "random_subnets": 0},
            {"share": 0.2, "unlock": (), "learning_rate": 0.0},
            *({"share": 0.2, "unlock": (kind,), "learning_rate": 0.5} for kind in kinds),
        ),
        restart=False,
    )
    assert [phases.sorted_before(step, range(len(micro.space.genes))) is not None for step in range(5)] == [
        0,
        0,
        1,
        1,
        1,
    ]
    transform, key = state.optimizer(5, learning_rate=0.1, warm_up=0.0).transform, jax.random.key(0)
    step = make_step(micro, sandwich.rule(random_subnets=1), transform, devices.data_mesh(1), phases=phases)
    current, params, compiled = state.create(init(micro.largest_net(), key, (8, 8, 1)), transform), [], []
    for _ in range(5):
        current, _ = step(current, split.images, jnp.asarray(split.labels), jnp.arange(16, dtype=jnp.int32), key)
        params.append(jax.device_get(current.variables["params"]))
        compiled.append(step._cache_size())
    # The second step's state comes from the first, on the mesh; that is another program, once.
    assert compiled[1] == compiled[-1] <= 2
    jax.tree.map(np.testing.assert_array_equal, params[0], params[1])
    for before, after in itertools.pairwise(params[1:]):
        assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True))
    log = {"directory": tmp_path, "log_every": 1, "batch_size": 16, "mesh": devices.data_mesh(1)}
    loop.fit(micro, split, sandwich.rule(random_subnets=1), steps=5, phases=phases, **log)
    assert ["loss_random" in row for row in rows(tmp_path)] == [False, False, True, True, True]  # as phases have them
    rates = [row["learning_rate"] for row in rows(tmp_path)]
    rate = state.optimizer(5).learning_rate
    np.testing.assert_allclose(rates, [float(rate(i)) * f for i, f in enumerate((1, 0, 0.5, 0.5, 0.5))], rtol=1e-6)


def test_the_learning_rate_begins_anew_with_each_phase(micro, split, tmp_path):
    phases = progressive_shrinking.schedule(
        micro.space, 9, random_subnets=1, order=("kernel", "expand", "width"), largest_share=0
    )
    options = {"optimizer": {"learning_rate": 0.05, "warm_up": 0.34}, "batch_size": 16, "mesh": devices.data_mesh(1)}
    loop.fit(
        micro,
        split,
        sandwich.rule(random_subnets=1),
        steps=9,
        phases=phases,
        directory=tmp_path,
        log_every=1,
        **options,
    )
    rates = [row["learning_rate"] for row in rows(tmp_path)]
    np.testing.assert_allclose(rates, [0, 0.05, 0.025] * 3, atol=1e-7)


def test_resuming_in_a_phase_that_sorts_equals_never_stopping(micro, split, tmp_path):
    phases = progressive_shrinking.schedule(micro.space, STEPS, random_subnets=1, largest_share=0.0)
    options = {"seed": 3, "steps": STEPS, "batch_size": 16, "phases": phases, "checkpoint_every": 2}
    options["mesh"] = devices.data_mesh(1)

    def run(directory):
        return loop.fit(micro, split, sandwich.rule(random_subnets=1), directory=directory, **options)

    whole = run(tmp_path / "whole")
    assert phases.first_step.tolist() == [0, 2, 4]  # kernel, expand, width: sorted before steps 2 and 4
    for kept in ("2", "4"):
        shutil.copytree(tmp_path / "whole", tmp_path / kept)
        for done in (tmp_path / kept / "checkpoints").iterdir():
            if done.name.isdigit() and int(done.name) > int(kept):
                shutil.rmtree(done)
        jax.tree.map(np.testing.assert_array_equal, run(tmp_path / kept), whole)
    unsorted = loop.fit(
        micro, split, sandwich.rule(random_subnets=1), **options | {"phases": phases._replace(sort_channels=False)}
    )
    kernels = [x.variables["params"]["stage1_block0"]["project_conv"]["kernel"] for x in (whole, unsorted)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3
