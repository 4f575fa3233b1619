"""A training that is told to stop, or that meets bad steps, ends up where the one that was left alone does."""

import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import devices, progress
from dynnas_jax.train import feed, incidents, loop, preemption, sandwich

STEPS = 12


def fit(micro, split, directory, *, rule=None, **options):
    return loop.fit(
        micro,
        split,
        rule or sandwich.rule(random_subnets=1),
        steps=STEPS,
        batch_size=16,
        mesh=devices.data_mesh(1),
        directory=directory,
        checkpoint_every=4,
        log_every=1,
        **options,
    )


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def rows(directory):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("time_s", "images_per_s", "wait_share")} for row in lines]


@pytest.fixture(scope="module")
def unbroken(micro, split, tmp_path_factory):
    directory = tmp_path_factory.mktemp("unbroken")
    accuracy = lambda variables: {"holdout_accuracy_largest": 0.5}  # noqa: E731
    return directory, fit(micro, split, directory, evaluate=accuracy, evaluate_every=3)


def test_progress_is_told(micro, split, unbroken, tmp_path, capsys):
    told = []

    def accuracy(variables):
        (stage,) = progress._stages
        told.append((progress.read(tmp_path), stage.facts()["training"]))
        return {"holdout_accuracy_largest": 0.5}

    fit(micro, split, tmp_path, evaluate=accuracy, evaluate_every=3)
    assert (told[0][0]["stage"], told[0][0]["process"]) == ("train", os.getpid())
    found = told[-1][1]
    assert (found["step"], found["steps"], found["time_left_s"]) == (STEPS, STEPS, 0)
    assert found["images_per_s"] > 0
    assert found["loss"] == rows(tmp_path)[-2]["loss"]
    assert f"dynnas: train: step {STEPS} of {STEPS}, " in capsys.readouterr().err
    assert not (tmp_path / progress.FILE).exists()


def test_terminated_and_resumed_equals_unbroken(micro, split, unbroken, tmp_path):
    def accuracy(variables):
        if (tmp_path / "metrics.jsonl").read_text().count("loss_largest") == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"holdout_accuracy_largest": 0.5}

    with pytest.raises(preemption.Preempted, match="terminated after step 6 of 12"):
        fit(micro, split, tmp_path, evaluate=accuracy, evaluate_every=3)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "6"]
    accuracy = lambda variables: {"holdout_accuracy_largest": 0.5}  # noqa: E731
    assert_same(fit(micro, split, tmp_path, evaluate=accuracy, evaluate_every=3), unbroken[1])
    assert rows(tmp_path) == rows(unbroken[0])


def poisoned(share, harm=jnp.nan):
    """The sandwich rule, whose loss is multiplied by `harm` at a share of the steps, by their keys."""

    class Poisoned(sandwich.Rule):
        def __call__(self, *arguments):
            objective = super().__call__(*arguments)

            def bad_at_times(given, images, labels, key, **more):
                made = objective(given, images, labels, key, **more)
                bad = jax.random.bernoulli(key, share)
                loss = jnp.where(bad, harm * made.metrics["loss"], made.metrics["loss"])
                return made._replace(metrics={**made.metrics, "loss": loss})

            return bad_at_times

    return Poisoned(sandwich.rule(random_subnets=1).options)


def assert_tells_the_step(facts, micro, split, rule, seed):
    """An incident's file holds the images of its batch and the random subnets of its step."""
    own = incidents.other_seed(seed, facts["roll_backs"])
    assert facts["image_indices"] == feed.batch_indices(len(split), 16, facts["step"], own).tolist()
    step_key = incidents.other_key(jax.random.fold_in(jax.random.key(seed), 1), facts["roll_backs"])
    assert facts["genomes"] == incidents.drawn(rule, micro.space, step_key, facts["step"], None, None)
    assert len(facts["genomes"]) == 1


def first_bad_step(share, seed, roll_backs=0):
    """The first step that `poisoned` harms."""
    step_key = incidents.other_key(jax.random.fold_in(jax.random.key(seed), 1), roll_backs)
    keys = [jax.random.split(jax.random.fold_in(step_key, step), 3)[1] for step in range(STEPS)]
    return next((step for step, key in enumerate(keys) if jax.random.bernoulli(key, share)), None)


def test_a_spike_stops_the_run(micro, split, tmp_path, monkeypatch):
    monkeypatch.setattr(incidents, "FIRST_STEPS", 2)
    share, rule = 0.1, poisoned(0.1, harm=50.0)
    seed = next(seed for seed in range(100) if first_bad_step(share, seed) in (5, 6, 7))
    step = first_bad_step(share, seed)
    with pytest.raises(
        ValueError,
        match=rf"the loss of step {step} is \d.*times its running average; the last good checkpoint is of step 4",
    ):
        fit(micro, split, tmp_path, rule=rule, spike_factor=4.0, seed=seed)
    (file,) = tmp_path.glob("incident_*.json")
    facts = json.loads(file.read_text())
    assert (facts["step"], facts["done"]) == (step, "stopped; a lower learning_rate often helps")
    assert 20 < facts["loss"] / facts["average_loss"] < 100
    assert_tells_the_step(facts, micro, split, rule, seed)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]


def test_a_spike_rolls_back_and_the_run_ends_well(micro, split, tmp_path, monkeypatch):
    monkeypatch.setattr(incidents, "FIRST_STEPS", 2)
    share, rule = 0.1, poisoned(0.1, harm=50.0)
    seed = next(
        seed
        for seed in range(1000)
        if first_bad_step(share, seed) in (5, 6, 7) and first_bad_step(share, seed, roll_backs=1) is None
    )
    final = fit(micro, split, tmp_path, rule=rule, spike_factor=4.0, seed=seed, on_incident="roll_back")
    assert (int(final.step), int(final.roll_backs), int(final.bad_step)) == (STEPS, 1, -1)
    (file,) = tmp_path.glob("incident_*.json")
    facts = json.loads(file.read_text())
    assert (facts["step"], facts["done"]) == (first_bad_step(share, seed), "rolled back")
    assert_tells_the_step(facts, micro, split, rule, seed)
    logged = rows(tmp_path)
    assert [row["step"] for row in logged] == list(range(1, STEPS + 1))
    assert max(row["loss"] for row in logged) < 2 * min(row["loss"] for row in logged)  # the spike's row is gone


def test_terminated_while_it_rolls_back(micro, split, tmp_path, monkeypatch):
    """The attempt that noticed SIGTERM is over: the next one stops."""
    settle = incidents.settle

    def terminated(*arguments, **details):
        os.kill(os.getpid(), signal.SIGTERM)
        settle(*arguments, **details)

    options = {"rule": poisoned(0.1), "on_incident": "roll_back", "most_roll_backs": 30, "seed": 1}
    with monkeypatch.context() as patched:
        patched.setattr(incidents, "settle", terminated)
        with pytest.raises(preemption.Preempted, match=r"terminated after step \d+ of 12"):
            fit(micro, split, tmp_path / "terminated", **options)
    assert_same(fit(micro, split, tmp_path / "terminated", **options), fit(micro, split, tmp_path / "whole", **options))


def test_rolled_back_and_killed_in_between_equals_never_killed(micro, split, tmp_path):
    options = {"rule": poisoned(0.1), "on_incident": "roll_back", "most_roll_backs": 30, "seed": 1}
    whole = fit(micro, split, tmp_path / "whole", **options)
    files = sorted((tmp_path / "whole").glob("incident_*.json"))
    told = [json.loads(file.read_text()) for file in files]
    assert files
    assert int(whole.roll_backs) >= 1
    assert int(whole.bad_step) == -1
    for facts in told:
        assert_tells_the_step(facts, micro, split, options["rule"], seed=1)
    assert [row["step"] for row in rows(tmp_path / "whole")] == list(range(1, STEPS + 1))
    for kept in ((), ("4",)):
        copy = shutil.copytree(tmp_path / "whole", tmp_path / f"kept_{len(kept)}")
        for folder in (copy / "checkpoints").iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder)
        for file in copy.glob("incident_*"):
            file.unlink()
        assert_same(fit(micro, split, copy, **options), whole)
        assert rows(copy) == rows(tmp_path / "whole")
        assert {(file.name, file.read_text()) for file in copy.glob("incident_*")} <= {
            (file.name, file.read_text()) for file in files
        }


def test_after_enough_roll_backs_it_stops(micro, split, tmp_path):
    with pytest.raises(ValueError, match="is not finite, after 2 roll-backs; there is no checkpoint yet"):
        fit(micro, split, tmp_path, rule=poisoned(1.0), on_incident="roll_back", most_roll_backs=2)
    assert len(list(tmp_path.glob("incident_0*.json"))) == 3
