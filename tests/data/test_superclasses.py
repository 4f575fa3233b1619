"""Groups of classes: what comes with the library, the user's own, and what is refused."""

import numpy as np
import pytest

from dynnas_jax.data import derived, superclasses

CLASSES = ("ant", "bee", "cat", "dog", "elk")
GROUPS = {"insect": ("bee", "ant"), "pet": ("dog", "cat"), "wild": ("elk",)}


@pytest.mark.parametrize(
    ("known", "groups", "each"),
    [
        ("imagenet10", 10, 6),
        ("imagenet12", 12, 20),
        ("car20", 20, 3),
        ("cifar100", 20, 5),
        ("imagenet100_at32", 10, 10),
    ],
)
def test_tables_have_the_sizes_that_their_sources_give(known, groups, each):
    listed = superclasses.read(superclasses.path_of(known))
    assert [len(group) for group in listed.values()] == [each] * groups
    names = [name for group in listed.values() for name in group]
    assert len(set(names)) == groups * each
    assert derived.listed(superclasses.path_of(known)) == tuple(names), "the file is a list of classes too"
    found = superclasses.of(names, known=known)
    assert found.groups[1] == tuple(range(each, 2 * each))


@pytest.mark.parametrize(("known", "dataset"), [("cifar10", "cifar10"), ("imagenet100_at32", "imagenet100_at32")])
def test_groups_are_of_the_dataset_they_name(shared, known, dataset):
    (labels,) = shared.glob(f"tensorflow_datasets/{dataset}/*/label.labels.txt")
    found = superclasses.of(labels.read_text().split(), known=known)
    assert sum(map(len, found.groups)) == len(labels.read_text().split())


def test_imagenet100s_groups_are_its_feature(shared):
    folder = shared / "tensorflow_datasets" / "imagenet100_at32" / "1.0.0"
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    skip = {"image": tfds.decode.SkipDecoding()}
    records = builder.as_data_source("validation", decoders=skip)
    found = superclasses.of(builder.info.features["label"].names, known="imagenet100_at32")
    names = builder.info.features["superclass"].names
    for record in (records[i] for i in range(0, len(records), 7)):
        assert found.names[found.of_class[int(record["label"])]] == names[int(record["superclass"])]


def test_a_set_has_the_classes_of_its_superclasses():
    found = superclasses.of(CLASSES, groups=GROUPS)
    assert found.groups == ((0, 1), (2, 3), (4,))
    assert found.of_class.tolist() == [0, 0, 1, 1, 2]
    members = found.members("insect+wild")
    assert members.tolist() == [True, False, True]
    assert found.members(["wild", "insect"]).tolist() == members.tolist()
    assert found.classes(members).tolist() == [0, 1, 4]
    assert found.title(members) == "insect+wild"
    task = found.task(members)
    for label in range(5):
        expected = [label in (0, 1, 4) and other in (0, 1, 4) for other in range(5)]
        assert task[label].tolist() == expected
        own = [found.of_class[other] == found.of_class[label] for other in range(5)]
        assert found.apart[label].tolist() == own


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "groups.txt"
    file.write_text("# mine\n[insect]\nbee\nant\n\n[pet]\ncat\ndog\n[wild]\nelk\n")
    assert superclasses.of(CLASSES, file=str(file)) == superclasses.of(CLASSES, groups=GROUPS)
    numbered = superclasses.of((0, 1, 2), groups={"low": (0, 1), "high": (2,)})
    assert np.array_equal(numbered.of_class, [0, 0, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of known, file and groups"),
        ({"known": "cifar10", "groups": GROUPS}, "give one of known, file and groups"),
        ({"known": "cifar"}, "known is 'cifar', did you mean 'cifar10'"),
        ({"groups": {**GROUPS, "wild": ("elk", "ant")}}, "class 'ant' is in 'insect' and in 'wild'"),
        ({"groups": {**GROUPS, "wild": ()}}, "'wild' has no classes"),
        ({"groups": {**GROUPS, "wild": "elk"}}, "'wild' has no classes"),
        ({"groups": {**GROUPS, "wild": ("elc",)}}, "class 'elc', none of the data's; did you mean 'elk'"),
        ({"groups": {"insect": ("ant", "bee"), "pet": ("cat", "dog")}}, "class 'elk' is in no group"),
        ({"groups": {"all": CLASSES}}, "1 group, must be at least 2"),
        ({"groups": {"a+b": CLASSES[:2], "c": CLASSES[2:]}}, "has a \\+ in its name"),
        ({"file": "/nowhere.txt"}, "no file /nowhere.txt"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        superclasses.of(CLASSES, **options)


def test_an_unknown_superclass_names_the_nearest():
    found = superclasses.of(CLASSES, groups=GROUPS)
    with pytest.raises(ValueError, match="superclass 'pets' is unknown, did you mean 'pet'"):
        found.members("insect+pets")
    with pytest.raises(ValueError, match="is empty"):
        found.members([])


@pytest.mark.parametrize(
    ("text", "message"), [("ant\n[a]\nbee\n", "'ant' stands above"), ("[a]\nant\n[a]\nbee\n", "'a' is named twice")]
)
def test_a_damaged_file(tmp_path, text, message):
    (tmp_path / "groups.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        superclasses.read(tmp_path / "groups.txt")
