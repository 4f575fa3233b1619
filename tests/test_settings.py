"""Reading configs: files, modes, overrides and their types, and the check of every key."""

import pytest

from dynnas_jax import kinds, sections, settings

FILE = """
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(mode=""):
    if mode not in ("", "tiny"):
        raise ValueError(f"mode is {mode!r}\\nchoose another")
    config = ConfigDict()
    config.data = {"name": "digits", "data_dir": placeholder(str), "augment": {"flip": False}}
    config.supernet = {"kernels": (3, 5), "widths": (0.5, 1.0)}
    config.train = {"steps": 1 if mode else 100, "optimizer": {"learning_rate": 0.1}}
    return config
"""


@pytest.fixture
def load(tmp_path):
    """load(overrides..., mode=""): the config as plain dicts."""
    file = tmp_path / "config.py"
    file.write_text(FILE)

    def run(*overrides, mode=""):
        colon = f":{mode}" if mode else ""
        return settings.as_dict(settings.load([f"--config={file}{colon}", *(f"--config.{line}" for line in overrides)]))

    return run


def test_file_and_mode(load):
    assert load()["train"]["steps"] == 100
    assert load(mode="tiny")["train"]["steps"] == 1
    with pytest.raises(ValueError, match=r"config\.py: ValueError: mode is 'huge'$"):
        load(mode="huge")


def test_every_section_is_there(load):
    config = load()
    assert tuple(config) == kinds.SUPERNET.sections
    assert (config["seed"], config["target"], config["search"]) == (0, "x86", {})


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.steps=7", "train", "steps", 7),
        ("data.data_dir=/data", "data", "data_dir", "/data"),
        ("supernet.kernels=(3,7)", "supernet", "kernels", (3, 7)),
        ("supernet.kernels=(7,)", "supernet", "kernels", (7,)),
        ("supernet.widths=(0.25,1)", "supernet", "widths", (0.25, 1)),
        ("data.augment.flip=True", "data", "augment", {"flip": True}),
        ("train.optimizer.learning_rate=1e-3", "train", "optimizer", {"learning_rate": 0.001}),
    ],
)
def test_overrides(load, override, section, key, value):
    found = load(override)[section][key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("text", "value"), [("0.2", 0.2), ("60", 60)])
def test_a_number_can_be_overridden_by_a_part_where_both_are_taken(tmp_path, text, value):
    file = tmp_path / "config.py"
    body = 'c = ConfigDict({"data": {"name": "digits", "holdout": 50}, "supernet": {"network": "small_images"}})'
    file.write_text(f"from ml_collections import ConfigDict\ndef get_config(mode=''):\n  {body}\n  return c\n")
    found = settings.load([f"--config={file}", f"--config.data.holdout={text}"], sections.options)
    assert found.data.holdout == value


def test_an_override_does_not_reach_the_next_load(load):
    load("train.steps=7")
    assert load()["train"]["steps"] == 100


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.steps=1.5", "train.steps"),
        ("train.steps=", "train.steps"),
        ("train.steps.more=1", "unknown config key 'train.steps.more'"),
        ("train.step=1", "unknown config key 'train.step', did you mean 'train.steps'"),
        ("supernet.kernels=('3',)", "must be a tuple of"),
        ("supernet.kernels=(3.5,)", "must be a tuple of"),
        ("supernet.kernels=(True,)", "must be a tuple of"),
        ("supernet.widths=('1',)", "must be a tuple of"),
        ("data.augment=3", "data.augment"),
    ],
)
def test_wrong_overrides(load, override, said):
    with pytest.raises(ValueError, match=r"^--config") as caught:
        load(override)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_unknown_keys_name_the_nearest():
    def function(data, *, size=1, colour="red", key=None): ...

    known = settings.parameters(function, also=("shape",), given=("key",))
    settings.check_options("section", {"size": 2, "colour": 3, "shape": 4}, known)
    with pytest.raises(ValueError, match=r"unknown config key 'section\.color', did you mean 'section\.colour'\?"):
        settings.check_options("section", {"color": 3}, known)
    for filled_in in ("key", "data"):  # what the run gives, and what is no option
        with pytest.raises(ValueError, match=rf"unknown config key 'section\.{filled_in}'"):
            settings.check_options("section", {filled_in: 3}, known)


def knob(
    *,
    limit: int | None = None,
    rate: "float | None" = None,
    momentum=0.9,
    sizes=(1, 2),
    limits: "tuple[float, ...] | None" = None,
    other=None,
): ...


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.knob.limit=7", 7),
        ("train.knob.rate=3", 3.0),
        ("train.knob.momentum=0.5", 0.5),
        ("train.knob.sizes=(3,)", (3,)),
        ("train.knob.limits=(0.5, 2)", (0.5, 2)),
    ],
)
def test_what_the_file_does_not_set_can_be_overridden(tmp_path, override, value):
    file = tmp_path / "config.py"
    file.write_text(FILE)
    options = lambda config: {"train.knob": settings.parameters(knob)}  # noqa: E731
    load = lambda line: settings.load([f"--config={file}", f"--config.{line}"], options).to_dict()  # noqa: E731
    found = load(override)["train"]
    assert found["knob"] == {override.split("=")[0].split(".")[-1]: value}
    assert found["steps"] == 100
    assert type(next(iter(found["knob"].values()))) is type(value)
    with pytest.raises(
        ValueError, match=r"unknown config key 'train\.knob\.size', did you mean 'train\.knob\.sizes'\?"
    ):
        load("train.knob.size=3")
    with pytest.raises(ValueError, match=r"--config\.train\.knob\.other: can be set in the config file only"):
        load("train.knob.other=3")
    with pytest.raises(
        ValueError, match=r"--config\.train\.knob\.other\.x: 'train\.knob\.other' can be set in the config"
    ):
        load("train.knob.other.x=3")
    with pytest.raises(ValueError, match="--config"):
        load("train.knob.limit=half")


def test_an_option_that_may_be_none_can_be_taken_back(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(
        FILE.replace(
            "    return config", "    config.train.knob = ConfigDict({'limit': 3, 'momentum': 0.5})\n    return config"
        )
    )
    options = lambda config: {"train.knob": settings.parameters(knob)}  # noqa: E731
    load = lambda *lines: settings.load([f"--config={file}", *(f"--config.{line}" for line in lines)], options)  # noqa: E731
    assert load().train.knob.to_dict() == {"limit": 3, "momentum": 0.5}
    found = load("train.knob.limit=None", "train.knob.rate=None").train.knob.to_dict()
    assert found == {"limit": None, "momentum": 0.5}
    with pytest.raises(ValueError, match="--config"):
        load("train.knob.momentum=None")  # it has a number by default


def test_least_values():
    settings.check_least("a.", {"n": 1, "unset": None}, {"n": 1, "unset": 1, "absent": 1})
    for wrong in (0, -1.5, float("nan"), "3"):
        with pytest.raises(ValueError, match=r"^a\.n is .*, must be a number of at least 1$"):
            settings.check_least("a.", {"n": wrong}, {"n": 1})
