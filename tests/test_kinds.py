"""What kind of run a config is of, and what its sections and stages are."""

import json

import pytest
from ml_collections import ConfigDict

from dynnas_jax import kinds, settings
from dynnas_jax.dynamic import exit_targets


def test_a_kind_is_named_by_its_section():
    for name, kind in kinds.KINDS.items():
        assert kinds.of({"data": {}, name: {}}) is kind
        assert set(kind.sections) >= {"data", name, "target", "seed", "report"}
        for stage in kind.stages:
            assert {key.partition(".")[0] for key in stage.reads} <= set(kind.sections)
            assert set(stage.inputs) <= set(kind.names[: kind.names.index(stage.name)])
        assert kind.leaves in kind.names


def test_what_nets_of_several_exits_are_made_for_is_read_by_what_finds_them():
    """Every key of the section but the number of the net that is exported, which only what comes after reads."""
    asked = set(settings.parameters(exit_targets.asked, given=("most",), also=("score",)))
    for kind in kinds.OF_EXITS:
        reads = {
            stage.name: {key.partition(".")[2] for key in stage.reads if key.startswith("dynamic")}
            for stage in kind.stages
        }
        for name in {"predict", "search"} & set(reads):
            assert reads[name] == asked - {"deployed"}
        assert reads["evaluate"] == reads["export"] == {"deployed"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"data": {}},
            f"section 'supernet' is missing (or one of {', '.join([*kinds.KINDS][1:])} in its place)",
        ),
        ({"data": {}, "supernet": {}, "network": {}}, "'supernet' and 'network' are of two kinds of runs"),
        ({"data": {}, "network": {}, "collect": {}}, "'collect' has no meaning in a run of one fixed network"),
        ({"data": {}, "cascade": {}, "train": {}}, "'train' has no meaning in a run of a cascade of two runs"),
        ({"data": {}, "network": 3}, "section 'network' is missing"),
    ],
)
def test_sections_of_another_kind(content, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        settings.as_dict(ConfigDict(content))
    assert said in str(caught.value)


def test_a_config_has_all_sections_of_its_kind_and_no_others():
    config = settings.as_dict(ConfigDict({"data": {}, "network": {}}))
    assert tuple(config) == kinds.NETWORK.sections
    assert (config["seed"], config["target"], config["train"]) == (0, "x86", {})


def test_what_changes_with_the_nets_of_a_run(tmp_path):
    assert kinds.net_manifest(tmp_path) is None
    assert kinds.net_manifest(None) is None
    for name, stage in (("supernet", "search"), ("network", "train")):
        (tmp_path / "config.json").write_text(json.dumps({name: {}}))
        assert kinds.net_manifest(tmp_path) == tmp_path / stage / "manifest.json"
