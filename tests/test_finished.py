"""What a search left is held to its space when it is read."""

import json

import pytest

from dynnas_jax import finished
from dynnas_jax.networks import coupled


def test_a_pair_of_coupled_nets_whose_little_exceeds_its_big(tiny, tmp_path):
    supernet = coupled.coupled(tiny.supernet)
    little, big = (supernet.space.to_json(genome) for genome in (supernet.space.largest, supernet.space.smallest))
    (tmp_path / "found.json").write_text(json.dumps({"pair": {"little": {"genome": little}, "big": {"genome": big}}}))
    with pytest.raises(ValueError, match=r"found.json: pair: little's \S+ is .*, must .* big's .*; pass --redo=search"):
        finished._read_pair(supernet, tmp_path)
