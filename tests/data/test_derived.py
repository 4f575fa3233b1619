"""Datasets made of others, on small copies with the features of the real ones."""

from importlib import resources

import numpy as np
import pytest

from dynnas_jax.data import derived, sources


@pytest.fixture
def imagenet(write_tfds, striped):
    """30 training and 10 validation images of five of ImageNet's classes, and an unlabelled test split."""
    import tensorflow_datasets as tfds

    names = ["n00000001", *derived.listed(derived.DERIVED["imagenet100"].class_list)[:3][::-1], "n99999999"]
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=names),
        "file_name": tfds.features.Text(),
    }

    def examples(count):
        return [{"image": striped(i, i % 5), "label": i % 5, "file_name": f"{i}.JPEG"} for i in range(count)]

    unlabelled = [{**example, "label": -1} for example in examples(5)]
    splits = {"train": examples(30), "validation": examples(10), "test": unlabelled}
    return names, write_tfds("imagenet2012", features, splits, version="5.1.0", form="JPEG")


def test_imagenet_is_tested_on_its_validation_split(imagenet):
    names, root = imagenet
    data = sources.load("imagenet2012", data_dir=root, image_size=8, holdout=5)
    assert data.classes == tuple(names)
    assert [len(split) for split in (data.train, data.holdout, data.test)] == [25, 5, 10]
    assert data.test.labels.tolist() == [0, 1, 2, 3, 4] * 2


def test_imagenet100_has_the_classes_of_its_list_in_its_order(imagenet, monkeypatch, tmp_path):
    names, root = imagenet
    whole = derived.DERIVED["imagenet100"]
    few = tmp_path / "few.txt"
    few.write_text("# three\n" + "\n".join(derived.listed(whole.class_list)[:3]))
    monkeypatch.setitem(derived.DERIVED, "imagenet100", whole._replace(class_list=few))
    data = sources.load("imagenet100", data_dir=root, image_size=8, holdout=0)
    assert data.classes == (names[3], names[2], names[1])
    assert data.train.image_id.tolist() == [i for i in range(30) if i % 5 in (1, 2, 3)]
    assert data.train.labels.tolist() == [3 - i % 5 for i in data.train.image_id]
    every = sources.load("imagenet2012", data_dir=root, image_size=8, holdout=0)
    np.testing.assert_array_equal(data.train.images, every.train.images[data.train.image_id])
    by_list = sources.load("imagenet2012", data_dir=root, image_size=8, holdout=0, class_list=str(few))
    np.testing.assert_array_equal(by_list.test.labels, data.test.labels)
    streamed = sources.load("imagenet100", data_dir=root, image_size=8, holdout=0, stream={})
    np.testing.assert_array_equal(streamed.train.labels, data.train.labels)
    np.testing.assert_array_equal(streamed.train.images[:], data.train.images)


def test_the_committed_list_is_that_of_the_small_images(shared):
    listed = derived.listed(derived.DERIVED["imagenet100"].class_list)
    assert len(set(listed)) == 100
    small = sources.load(
        "imagenet100_at32", data_dir=shared / "tensorflow_datasets", train_limit=2, test_limit=2, holdout=0
    )
    assert listed == small.classes


def test_all_listed_classes_are_imagenets():
    labels = resources.files("tensorflow_datasets") / "datasets" / "imagenet2012" / "labels.txt"
    assert set(derived.listed(derived.DERIVED["imagenet100"].class_list)) <= set(labels.read_text().split())


@pytest.fixture
def coco(write_tfds):
    """12 training and 6 validation images of 20 x 10 pixels; a person of i / 4 % of the image in number 100 + i."""
    import tensorflow_datasets as tfds

    objects = {
        "id": np.int64,
        "area": np.int64,
        "bbox": tfds.features.BBoxFeature(),
        "label": tfds.features.ClassLabel(names=["person", "bicycle", "car"]),
        "is_crowd": np.bool_,
    }
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "image/filename": tfds.features.Text(),
        "image/id": np.int64,
        "objects": tfds.features.Sequence(objects),
    }
    box = tfds.features.BBox(ymin=0.0, xmin=0.0, ymax=1.0, xmax=1.0)

    def example(number):
        image = np.full((20, 40, 3), 5 * (number - 100), np.uint8)
        image[:, 20:] = 200
        # A bicycle as large as the image, and where the number is not a multiple of three a person.
        things = [{"id": 1, "area": 800, "bbox": box, "label": "bicycle", "is_crowd": False}]
        if number % 3:
            things.append(
                {"id": 2, "area": 2 * (number - 100), "bbox": box, "label": "person", "is_crowd": number % 2 == 0}
            )
        return {"image": image, "image/filename": f"{number}.jpg", "image/id": number, "objects": things}

    splits = {"train": range(100, 112), "validation": range(112, 118), "test": range(118, 120)}
    made = {split: [example(number) for number in numbers] for split, numbers in splits.items()}
    return write_tfds("coco", features, made, config="2014", version="1.1.0", supervised=None, form="JPEG")


def has_person(number):
    """A person of more than 0.5 % of 800 pixels, by hand."""
    return int(number % 3 != 0 and 2 * (number - 100) > 4)


def test_visual_wake_words(coco):
    data = sources.load("visual_wake_words", data_dir=coco, image_size=8, holdout=0)
    assert data.classes == ("no_person", "person")
    assert data.train.labels.tolist() == [has_person(number) for number in range(100, 112)]
    assert data.test.labels.tolist() == [has_person(number) for number in range(112, 118)]
    assert set(data.train.labels[:3]) == {0}  # persons of 0, 0.25 and 0.5 %: only more than 0.5 % counts


def test_visual_wake_words_by_a_list_of_test_images(coco, tmp_path):
    listed = tmp_path / "minival.txt"
    listed.write_text("115\n104\n113\n")
    data = sources.load("visual_wake_words", data_dir=coco, image_size=8, holdout=0, test_list=str(listed))
    assert data.test.image_id.tolist() == [4, 13, 15]
    assert data.test.labels.tolist() == [has_person(number) for number in (104, 113, 115)]
    assert len(data.train) == 15
    assert not set(data.train.image_id) & set(data.test.image_id)
    listed.write_text("104\n999\n")
    with pytest.raises(ValueError, match="lists 1 images that are not there, such as 999"):
        sources.load("visual_wake_words", data_dir=coco, image_size=8, test_list=str(listed))
    listed.write_text("a.jpg\n")
    with pytest.raises(ValueError, match="give a text file with the number of an image a line"):
        sources.load("visual_wake_words", data_dir=coco, image_size=8, test_list=str(listed))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("n00000001\nn0000000\n", "class 'n0000000' is none of the dataset's; did you mean 'n00000001'"),
        ("n00000001\nn00000001\n", "names class 'n00000001' twice"),
        ("n00000001\n# one\n", "names fewer than two classes"),
    ],
)
def test_lists_that_do_not_fit(imagenet, tmp_path, lines, message):
    (tmp_path / "list.txt").write_text(lines)
    with pytest.raises(ValueError, match=message):
        sources.load("imagenet2012", data_dir=imagenet[1], image_size=8, class_list=str(tmp_path / "list.txt"))


def test_lists_without_use(imagenet, tmp_path):
    (tmp_path / "list.txt").write_text("1\n2\n")
    options = {"data_dir": imagenet[1], "image_size": 8}
    with pytest.raises(ValueError, match="images of imagenet2012 have no numbers to list"):
        sources.load("imagenet2012", test_list=str(tmp_path / "list.txt"), **options)
    with pytest.raises(ValueError, match=r"no file .*none\.txt"):
        sources.load("imagenet2012", class_list=str(tmp_path / "none.txt"), **options)
    with pytest.raises(ValueError, match="'digits' is no TFDS dataset"):
        sources.load("digits", class_list=str(tmp_path / "list.txt"))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("imagenet100", ("made of 'imagenet2012'", "ILSVRC2012_img_train.tar", "t.builder('imagenet2012'")),
        ("visual_wake_words", ("made of 'coco/2014'", "t.builder('coco/2014'")),
        ("cifar100", ("not prepared", "t.builder('cifar100'")),
    ],
)
def test_what_is_absent_is_said_with_the_line_that_prepares_it(tmp_path, name, parts):
    with pytest.raises(ValueError, match="not prepared in") as caught:
        sources.load(name, data_dir=tmp_path)
    assert all(part in str(caught.value) for part in parts)
    assert "\n" not in str(caught.value)


def test_a_derived_dataset_in_another_version(imagenet):
    with pytest.raises(ValueError, match=r"made of 'imagenet2012', is not in .* in version 9\.9\.9, only 5\.1\.0"):
        sources.load("imagenet100:9.9.9", data_dir=imagenet[1], image_size=8)
