"""Arch files of families of networks: keyword arguments of one function, checked by what it says of them."""

import pytest

from dynnas_jax.networks import NETWORKS, arch_files


def example(
    *,
    depths: tuple[int, ...] = (1, 2),
    width: float = 1.0,
    mode: str = "even",
    skip: bool = False,
    stem: int | None = None,
):
    return depths, width, mode, skip, stem


def test_values_have_the_types_of_the_arguments():
    content = {"depths": [3, 4], "width": 2, "mode": "odd", "skip": True, "stem": None}
    found = arch_files.keyword_arguments(example, content)
    assert found == {"depths": (3, 4), "width": 2.0, "mode": "odd", "skip": True, "stem": None}
    assert type(found["width"]) is float
    assert example(**arch_files.keyword_arguments(example, {"stem": 8})) == ((1, 2), 1.0, "even", False, 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"arch file: must be an object with keys of \['depths', 'width', 'mode', 'skip', 'stem'\]"),
        ({"dephts": [1]}, "unknown key 'dephts', did you mean 'depths'"),
        ({"depths": 3}, "depths is 3, must be a list of integers"),
        ({"depths": [3, "4"]}, r"depths is \[3, '4'\], must be a list of integers"),
        ({"depths": [True]}, r"depths is \[True\], must be a list of integers"),
        ({"width": "wide"}, "width is 'wide', must be a number"),
        ({"width": True}, "width is True, must be a number"),
        ({"mode": None}, "mode is None, must be a string"),
        ({"skip": 1}, "skip is 1, must be true or false"),
        ({"stem": 1.5}, "stem is 1.5, must be an integer or null"),
    ],
)
def test_wrong_content(content, message):
    with pytest.raises(ValueError, match=message):
        arch_files.keyword_arguments(example, content)


@pytest.mark.parametrize("name", [name for name, loader in NETWORKS.items() if loader.family])
def test_an_empty_file_is_the_family_s_default(name):
    loader = NETWORKS[name]
    assert not loader.has_space
    assert loader.from_arch_file({}) == loader()
    with pytest.raises(ValueError, match="resolution is 'big', must be an integer"):
        loader.from_arch_file({"resolution": "big"})


@pytest.mark.parametrize("name", ["cifar_resnet", "bottleneck_resnet", "nasnet"])
def test_a_file_may_say_what_images_are_read(name):
    images = {"resolution": 16, "channels": 1, "classes": 7, "mean": [0.5], "std": [0.25]}
    arch = NETWORKS[name].from_arch_file(images).arch
    assert {key: getattr(arch, key) for key in images} == {**images, "mean": (0.5,), "std": (0.25,)}
    with pytest.raises(ValueError, match="channels is '1', must be an integer"):
        NETWORKS[name].from_arch_file({"channels": "1"})
