import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kendalltau

from dynnas_jax.search import predictor
from dynnas_jax.search_space import Gene, SearchSpace

SPACE = SearchSpace(
    (
        Gene("depth", (1, 2)),
        *(Gene(f"block0.gene{i}", (3, 5, 7)) for i in range(5)),
        *(Gene(f"block1.gene{i}", (3, 5, 7), ("depth", 1)) for i in range(5)),
    )
)
BRIEF = {"key": jax.random.key(0), "epochs": 3}


def samples(count, seed=0):
    """Genomes and an accuracy that depends on pairs of neighbouring genes, spread 0.02 around 0.7."""
    genomes = np.array(SPACE.sample(jax.random.key(seed), count))
    code = np.asarray(jax.vmap(SPACE.encode)(genomes), np.float64)
    rng = np.random.default_rng(1)
    value = code @ rng.normal(size=code.shape[1]) + (code[:, 1:] * code[:, :-1]) @ rng.normal(size=code.shape[1] - 1)
    return genomes, (0.7 + 0.02 * (value - value.mean()) / value.std()).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    genomes, accuracy = samples(300)
    return predictor.fit(SPACE, genomes, accuracy, key=jax.random.key(0), epochs=40)


def test_it_ranks_genomes_it_has_not_seen(fitted):
    genomes, accuracy = samples(400)
    unseen = slice(300, None)
    predicted = np.asarray(jax.jit(jax.vmap(fitted))(genomes[unseen]))
    assert kendalltau(predicted, accuracy[unseen]).statistic > 0.75
    assert np.abs(predicted - accuracy[unseen]).mean() < 0.008  # a constant prediction errs by 0.016


def test_it_beats_ridge_regression_on_the_held_out_part_it_reports(fitted):
    assert fitted.fitted + fitted.held_out == 300
    assert len(fitted.predicted) == len(fitted.actual) == fitted.held_out == 60
    assert fitted.kendall_tau == pytest.approx(kendalltau(fitted.predicted, fitted.actual).statistic)
    genomes, accuracy = samples(300)
    held = np.isin(accuracy, fitted.actual)
    code = np.asarray(jax.vmap(SPACE.encode)(genomes), np.float64)
    gram = code[~held].T @ code[~held] + np.eye(code.shape[1])
    ridge = code @ np.linalg.solve(gram, code[~held].T @ (accuracy[~held] - accuracy[~held].mean()))
    assert fitted.kendall_tau > kendalltau(ridge[held], accuracy[held]).statistic


def test_genes_that_do_not_count_do_not_matter(fitted):
    genome = np.zeros(11, np.int32)
    other = genome.copy()
    other[6:] = 2
    assert fitted(genome) == fitted(other)
    assert fitted(genome).shape == ()


def test_the_held_out_records_do_not_touch_the_fit():
    genomes, accuracy = samples(40)
    before = predictor.fit(SPACE, genomes, accuracy, **BRIEF)
    held = np.isin(accuracy, before.actual)
    after = predictor.fit(SPACE, genomes, np.where(held, np.float32(0), accuracy), **BRIEF)
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    assert (after.actual == 0).all()


def test_records_of_one_subnet_stay_on_one_side():
    genomes, _ = samples(20)
    genomes[:, 0] = 0
    again = genomes.copy()
    again[:, 6:] = 2 - again[:, 6:]  # genes of the skipped block: the same subnets
    genomes = np.concatenate([genomes, again])
    _, subnet = np.unique(genomes[:, :6], axis=0, return_inverse=True)
    result = predictor.fit(SPACE, genomes, subnet.reshape(-1), **BRIEF)
    names, copies = np.unique(result.actual.astype(int), return_counts=True)
    assert len(names) == round(0.2 * (subnet.max() + 1))
    np.testing.assert_array_equal(copies, np.bincount(subnet.reshape(-1))[names])


def test_equal_accuracies_have_no_rank_and_are_predicted():
    genomes, _ = samples(40)
    result = predictor.fit(SPACE, genomes, np.full(40, 0.5), **BRIEF)
    assert result.kendall_tau == 0
    np.testing.assert_allclose(result.predicted, 0.5, atol=1e-6)


def test_saved_and_loaded_it_predicts_the_same(fitted, tmp_path):
    predictor.save(fitted, tmp_path / "predict")
    loaded = predictor.load(tmp_path / "predict", SPACE)
    genomes, _ = samples(5)
    np.testing.assert_array_equal(jax.vmap(loaded)(genomes), jax.vmap(fitted)(genomes))
    np.testing.assert_array_equal(loaded.predicted, fitted.predicted)
    results = json.loads((tmp_path / "predict" / "predictor.json").read_text())
    assert {name: results[name] for name in ("kendall_tau", "held_out", "fitted")} == {
        "kendall_tau": fitted.kendall_tau,
        "held_out": 60,
        "fitted": 240,
    }
    assert len(results["predicted"]) == len(results["actual"]) == 60


def test_foreign_and_damaged_folders_are_refused(fitted, tmp_path):
    with pytest.raises(ValueError, match="no readable predictor"):
        predictor.load(tmp_path, SPACE)
    predictor.save(fitted, tmp_path)
    other = SearchSpace(SPACE.genes, divisor=4)
    with pytest.raises(ValueError, match=f"fitted for space '{SPACE.fingerprint}', but this space is"):
        predictor.load(tmp_path, other)
    weights = (tmp_path / "params.npz").read_bytes()
    np.savez(tmp_path / "params.npz", kernel=np.zeros(3))
    with pytest.raises(ValueError, match="does not hold the weights"):
        predictor.load(tmp_path, SPACE)
    (tmp_path / "params.npz").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="no readable predictor"):
        predictor.load(tmp_path, SPACE)
    (tmp_path / "params.npz").write_bytes(weights)
    (tmp_path / "predictor.json").write_text("[1]")
    with pytest.raises(ValueError, match="no readable predictor"):
        predictor.load(tmp_path, SPACE)


def test_records_that_cannot_be_fitted_are_refused():
    genomes, accuracy = samples(30)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="9 distinct subnets on record, at least 10"):
        predictor.fit(SPACE, np.repeat(genomes[:9], 3, axis=0), np.repeat(accuracy[:9], 3), key=key)
    with pytest.raises(ValueError, match=r"accuracy\[4\] is nan"):
        predictor.fit(SPACE, genomes, np.where(np.arange(30) == 4, np.nan, accuracy), key=key)
    with pytest.raises(ValueError, match=r"must be \[n, 11\] and \[n\]"):
        predictor.fit(SPACE, genomes[:, 1:], accuracy, key=key)
    with pytest.raises(ValueError, match="held_out is 1"):
        predictor.fit(SPACE, genomes, accuracy, key=key, held_out=1)
    with pytest.raises(ValueError, match="epochs 0"):
        predictor.fit(SPACE, genomes, accuracy, key=key, epochs=0)


def test_the_predictor_serves_as_fitness_under_jit(fitted):
    genome = jnp.asarray(SPACE.largest)
    np.testing.assert_allclose(jax.jit(lambda g: fitted(g))(genome), fitted(genome), rtol=1e-6)
