import json
import shutil

import numpy as np
import pytest

from dynnas_jax import records

GENES, IMAGES, CHOICES = 5, 40, 2
IMAGE_ID = np.arange(100, 100 + IMAGES)


def rows(seed: int, count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "genome": rng.integers(0, 3, (count, GENES), np.int32),
        "score": rng.random((count, IMAGES, CHOICES)),
        "correct": rng.random((count, IMAGES, CHOICES)) < 0.7,
        "cost": rng.integers(2**40, 2**50, (count, CHOICES)),
    }


@pytest.fixture
def store(tmp_path):
    return records.create(
        tmp_path / "records.zarr", "abc", genes=GENES, image_id=IMAGE_ID, choices=CHOICES, chunk_rows=4
    )


def test_scores_survive_encoding_near_one_and_near_zero():
    distance = np.concatenate([np.logspace(-16, 0, 2001), [0.3, 0.5]])
    score = np.sort(np.concatenate([1 - distance, [0.0, 1.0, 1e-6]]))
    encoded = records.encode(score)
    decoded = records.decode(encoded)
    assert encoded.dtype == np.float16
    assert np.isfinite(encoded).all()
    assert (np.diff(encoded) >= 0).all()
    assert (np.diff(decoded) >= 0).all()
    np.testing.assert_allclose(decoded, score, atol=2e-4, rtol=0)
    np.testing.assert_allclose(1 - decoded[score < 0.9999], 1 - score[score < 0.9999], rtol=0.02)


def test_the_ends_of_the_scale_are_exact_and_one_stands_alone():
    np.testing.assert_array_equal(records.decode(records.encode(np.array([0.0, 1.0]))), [0.0, 1.0])
    just_below = np.array([np.nextafter(1.0, 0.0)])
    assert records.encode(just_below) < records.encode(np.ones(1))
    just_below = np.nextafter(np.float32(1), np.float32(0))[None]
    assert records.decode(records.encode(just_below)) < 1


@pytest.mark.parametrize("score", [np.nan, -0.1, 1.01])
def test_a_score_outside_its_range_is_refused(score):
    with pytest.raises(ValueError, match=r"scores must lie in \[0, 1\]"):
        records.encode(np.array([0.5, score]))


def test_written_rows_read_back_after_opening_again(store):
    parts = [rows(0, 3), rows(1, 6)]
    store = store.write(0, **parts[0])
    store.write(3, **parts[1])
    store = records.open(store.path, "abc", image_id=IMAGE_ID)
    both = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name in ("genome", "correct", "cost"):
        np.testing.assert_array_equal(store.read(name), both[name])
    np.testing.assert_allclose(store.read("score"), both["score"], atol=2e-4)
    np.testing.assert_array_equal(store.read("genome", slice(2, 5)), both["genome"][2:5])
    np.testing.assert_array_equal(store.read("genome", np.array([7, 0])), both["genome"][[7, 0]])
    np.testing.assert_array_equal(store.read("image_id"), IMAGE_ID)
    np.testing.assert_array_equal(store.accuracy(), both["correct"].mean(axis=1))
    assert store.done().all()


def test_rows_can_be_written_over(store):
    store = store.write(0, **rows(0, 6))
    again = rows(2, 2)
    store = store.write(3, **again)
    assert len(store.done()) == 6
    np.testing.assert_array_equal(store.read("genome", slice(3, 5)), again["genome"])
    np.testing.assert_array_equal(store.read("genome", slice(0, 3)), rows(0, 6)["genome"][:3])


@pytest.mark.parametrize("broken", ["genome", "score", "correct", "cost", "done"])
def test_an_interrupted_chunk_is_redone(store, broken, monkeypatch):
    store = store.write(0, **rows(0, 4))
    write = records.Records._set

    def interrupted(self, name, where, values):
        if name == broken and (name != "done" or values.all()):
            raise KeyboardInterrupt
        write(self, name, where, values)

    monkeypatch.setattr(records.Records, "_set", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write(4, **rows(1, 4))
    with pytest.raises(KeyboardInterrupt):
        store.write(0, **rows(1, 2))
    monkeypatch.undo()
    store = records.open(store.path, "abc")
    np.testing.assert_array_equal(store.done(), [False, False, True, True, False, False, False, False])
    np.testing.assert_array_equal(np.isnan(store.accuracy()[:, 0]), ~store.done())
    store = store.write(0, **rows(0, 4)).write(4, **rows(1, 4))
    assert store.done().all()
    np.testing.assert_array_equal(store.read("genome", slice(4, 8)), rows(1, 4)["genome"])


def test_an_interrupted_growth_leaves_a_store_that_opens(store):
    store = store.write(0, **rows(0, 2))
    store.arrays["genome"].resize(exclusive_max=(9, GENES)).result()
    store = records.open(store.path, "abc")
    assert store.read("genome").shape == (2, GENES)
    store = store.write(2, **rows(1, 3))
    np.testing.assert_array_equal(store.read("genome", slice(2, None)), rows(1, 3)["genome"])


def test_resume_opens_what_stands_and_creates_what_does_not(tmp_path):
    settings = {"genes": GENES, "image_id": IMAGE_ID, "choices": CHOICES}
    store = records.resume(tmp_path / "r", "abc", **settings)
    store.write(0, **rows(0, 2))
    assert records.resume(tmp_path / "r", "abc", **settings).done().tolist() == [True, True]
    with pytest.raises(ValueError, match="5 genes and 2 choices, not 6 and 2"):
        records.resume(tmp_path / "r", "abc", **settings | {"genes": 6})


def test_a_creation_that_was_interrupted_is_done_again(store):
    (store.path / "zarr.json").unlink()
    with pytest.raises(ValueError, match="creation was interrupted"):
        records.open(store.path)
    again = records.create(store.path, "other", genes=2, image_id=IMAGE_ID[:3])
    assert records.open(store.path, "other").read("genome").shape == (0, 2)
    with pytest.raises(ValueError, match="stands here already"):
        records.create(again.path, "other", genes=2, image_id=IMAGE_ID[:3])


def test_foreign_stores_are_refused(store, tmp_path):
    with pytest.raises(ValueError, match="records of space 'abc', but this space is 'xyz'"):
        records.open(store.path, "xyz")
    with pytest.raises(ValueError, match="other images"):
        records.open(store.path, "abc", image_id=IMAGE_ID + 1)
    with pytest.raises(ValueError, match="no records store here"):
        records.open(tmp_path / "nothing")
    (store.path / "zarr.json").write_text(json.dumps({"attributes": {"schema": 99, "space": "abc"}}))
    with pytest.raises(ValueError, match="schema 99"):
        records.open(store.path)


def damage_group(path):
    (path / "zarr.json").write_text("{")


def damage_array(path):
    (path / "score" / "zarr.json").write_text("nonsense")


def drop_array(path):
    shutil.rmtree(path / "cost")


def swap_arrays(path):
    shutil.rmtree(path / "correct")
    shutil.copytree(path / "score", path / "correct")


def other_shape(path):
    other = records.create(path.parent / "other", "abc", genes=GENES, image_id=IMAGE_ID[:7], choices=CHOICES)
    shutil.rmtree(path / "score")
    shutil.copytree(other.path / "score", path / "score")


@pytest.mark.parametrize("damage", [damage_group, damage_array, drop_array, swap_arrays, other_shape])
def test_damaged_stores_are_refused_in_one_line(store, damage):
    store.write(0, **rows(0, 3))
    damage(store.path)
    with pytest.raises(ValueError, match=str(store.path)) as caught:
        records.open(store.path)
    assert "\n" not in str(caught.value)


def test_a_truncated_chunk_is_noticed(store):
    store = store.write(0, **rows(0, 3))
    chunk = store.path / "correct" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(ValueError, match="cannot read correct") as caught:
        records.open(store.path).accuracy()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["genome", "score", "correct", "cost"])
def test_rows_that_do_not_fit_are_refused(store, name):
    wrong = rows(0, 2)
    wrong[name] = wrong[name][:, 1:]
    with pytest.raises(ValueError, match=f"{name} has shape"):
        store.write(0, **wrong)
    assert len(store.done()) == 0


def test_gaps_and_unknown_names_are_refused(store):
    with pytest.raises(ValueError, match="row 1 would leave a gap"):
        store.write(1, **rows(0, 1))
    with pytest.raises(ValueError, match="no array 'scores'"):
        store.read("scores")
