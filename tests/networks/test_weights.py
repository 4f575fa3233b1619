"""Imported weights: logits of tiny nets equal those of the original PyTorch code, which tests/networks/data keeps."""

import functools
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import kinds
from dynnas_jax.elastic import slice_variables
from dynnas_jax.kernel_transforms import PLACE
from dynnas_jax.masking import mask_variables
from dynnas_jax.networks import mbconv, mobilenets, ofa, state_dicts, weights
from dynnas_jax.networks.mbconv import Arch, BlockSpec, Net
from dynnas_jax.stages import train

DATA = Path(__file__).with_name("data")
# Less work for the compiler, and the same arithmetic.
QUICK = {"xla_backend_optimization_level": 0}


def tiny_supernet(supernet, outs, *, shortcut, act, head_conv):
    """A once-for-all space with the widths of original_nets.py: at most two blocks a stage, expansion 2 or 3."""
    template = supernet.arch.template
    first = BlockSpec(3, 8, 8, 1, act, expand=False, shortcut=shortcut)
    features = 144 if template.base.head_features else 0
    base = replace(
        template.base,
        stem_out=8,
        stages=(("stage0", (first,)),),
        head_conv=head_conv,
        head_features=features,
        classes=5,
    )
    rows = zip(template.stages, outs, strict=True)
    kept = tuple(replace(s, out=out, depths=(1,) if s.depths == (1,) else (1, 2)) for s, out in rows)
    return ofa.build(
        replace(template, base=base, stages=kept, expands=(2, 3), resolutions=(40,)), kernel_transforms=True
    )


def tiny_mobilenet_v3():
    rows = (
        (3, 8, 8, 0, "relu", 1),
        (3, 32, 16, 0, "relu", 2),
        (3, 48, 16, 0, "relu", 1),
        (5, 48, 24, 16, "hswish", 2),
        (5, 72, 24, 24, "hswish", 1),
    )
    chain = mbconv.grouped_by_stride(mobilenets.block_specs(rows, 8))
    return Net(Arch(40, 8, "hswish", chain, 32, "hswish", 5, head_features=48, head_features_bias=True, epsilon=1e-3))


def tiny_efficientnet():
    rows = (
        (3, 8, 8, 2, "swish", 1),
        (3, 32, 16, 2, "swish", 2),
        (3, 64, 16, 4, "swish", 1),
        (5, 48, 24, 4, "swish", 2),
        (5, 72, 24, 6, "swish", 1),
        (3, 72, 32, 6, "swish", 1),
    )
    chain = mbconv.grouped_by_stride(mobilenets.block_specs(rows, 8))
    return Net(Arch(40, 8, "swish", chain, 48, "swish", 5, epsilon=1e-3, se_act="swish", se_gate="sigmoid"))


V3, PROXYLESS = ofa.ofa_mobilenet_v3(), ofa.ofa_proxyless()
NETWORKS = {
    "tiny_ofa_mobilenet_v3": lambda: tiny_supernet(V3, (8, 8, 8, 16, 16), shortcut=True, act="relu", head_conv=104),
    "tiny_ofa_proxyless": lambda: tiny_supernet(
        PROXYLESS, (8, 8, 8, 16, 24, 32), shortcut=False, act="relu6", head_conv=144
    ),
    "tiny_mobilenet_v3": tiny_mobilenet_v3,
    "tiny_efficientnet": tiny_efficientnet,
}
SPACES = [name for name in NETWORKS if "ofa" in name]
EPSILON = {"tiny_ofa_proxyless": 1e-3}


@functools.cache
def loaded(name):
    return weights.load(DATA / f"{name}.npz", NETWORKS[name]())


def answers(name):
    with np.load(DATA / f"{name}_answers.npz") as file:
        return dict(file)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def apply(net, variables, images):
    return net.apply(variables, images)[0]


def largest(network):
    return network if isinstance(network, Net) else network.largest_net()


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_equal_the_original_codes(name):
    network, variables = loaded(name)
    net, given = largest(network), answers(name)
    assert (net.arch.padding, net.arch.epsilon) == ("symmetric", EPSILON.get(name, 1e-5))
    assert (PLACE in variables["params"]) == (name in SPACES)
    np.testing.assert_allclose(apply(net, variables, given["images"]), given["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("change", [{"padding": "SAME"}, {"epsilon": 3e-3}])
def test_other_conventions_give_other_logits(change):
    """Else the equality above would not show that they are right."""
    given = answers("tiny_efficientnet")
    net, variables = weights.load(DATA / "tiny_efficientnet.npz", tiny_efficientnet(), **change)
    assert np.abs(apply(net, variables, given["images"]) - given["logits"]).max() > 1e-3


def archs(name, supernet, given):
    """The archs of the subnets whose logits are kept."""
    most = [max(stage.depths) for stage in supernet.arch.template.stages]
    starts = np.cumsum([0, *most])
    for kernel, expand, depth in zip(*(given[f"subnet_{key}"] for key in ("kernel", "expand", "depth")), strict=True):
        rows = [slice(start, start + d) for start, d in zip(starts, depth, strict=False)]
        chosen = {
            key: [values[row].tolist() for row in rows] for key, values in (("kernel", kernel), ("expand", expand))
        }
        yield supernet.arch.from_file({"resolution": 40, "width": supernet.arch.template.named_width, **chosen})


@pytest.mark.parametrize("name", SPACES)
def test_subnets_with_transformed_kernels_equal_the_original_codes(name):
    supernet, variables = loaded(name)
    cut = {**variables, "params": {key: tree for key, tree in variables["params"].items() if key != PLACE}}
    given, off = answers(name), 0.0
    for arch, logits in zip(archs(name, supernet, given), given["subnet_logits"], strict=True):
        own = slice_variables(supernet, variables, arch)
        found = apply(supernet.net(arch), own, given["images"])
        np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4)
        cropped = apply(supernet.net(arch), slice_variables(supernet, cut, arch), given["images"])
        off = max(off, np.abs(cropped - logits).max())
    assert off > 1e-2  # the plain crop is another net


def test_masked_equals_sliced_with_symmetric_padding():
    supernet, variables = loaded("tiny_ofa_mobilenet_v3")
    images = answers("tiny_ofa_mobilenet_v3")["images"]
    genome = supernet.space.smallest
    masked = apply(supernet.largest_net(), mask_variables(supernet, variables, jnp.asarray(genome)), images)
    arch = supernet.arch(genome)
    sliced = apply(supernet.net(arch), slice_variables(supernet, variables, arch), images)
    np.testing.assert_allclose(masked, sliced, rtol=0, atol=1e-4)


def test_a_kernel_without_its_transform():
    supernet, variables = loaded("tiny_ofa_proxyless")
    arch = supernet.arch(supernet.space.smallest)
    without = {name: {"7to5": own["7to5"]} for name, own in variables["params"][PLACE].items()}
    with pytest.raises(ValueError, match="no kernel transform from 5 to 3, only 7to5"):
        slice_variables(supernet, {**variables, "params": {**variables["params"], PLACE: without}}, arch)


# Names and files.


def arrays(name):
    with np.load(DATA / f"{name}.npz") as file:
        return dict(file)


def saved(tmp_path, content):
    np.savez(tmp_path / "weights.npz", **content)
    return tmp_path / "weights.npz"


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back(name, tmp_path):
    network, variables = loaded(name)
    library = "once-for-all" if name in SPACES else "timm"
    state = weights.to_state_dict(largest(network), variables, library)
    original = {state_dicts.plain(key): value for key, value in arrays(name).items() if "num_batches" not in key}
    assert set(original) - set(state) == {key for key in original if key.endswith("_matrix")}
    for key, value in state.items():
        np.testing.assert_array_equal(value, original[key].astype(np.float32), err_msg=key)
    file, own = saved(tmp_path, state), {key: tree for key, tree in variables["params"].items() if key != PLACE}
    if name in SPACES:
        with pytest.raises(ValueError, match=r"has no kernel transforms; .*kernel_transforms=False"):
            weights.load(file, network)
        network = network._replace(transforms=False)
    again = weights.load(file, network)
    assert again.network is network
    jax.tree.map(np.testing.assert_array_equal, again.variables, {**variables, "params": own})


def test_old_names_and_those_of_several_devices(tmp_path):
    """Once-for-all's published files call a block's layers otherwise; training on several devices puts a word in front."""
    old = {"module." + key.replace(".conv.", ".mobile_inverted_conv.", 1): v for key, v in arrays(SPACES[0]).items()}
    assert any("mobile_inverted_conv.depth_conv.conv.conv.weight" in key for key in old)
    old = {key.replace("module.first_mobile_inverted_conv", "first_conv"): v for key, v in old.items()}
    found = weights.load(saved(tmp_path, old), NETWORKS[SPACES[0]]())
    jax.tree.map(np.testing.assert_array_equal, found.variables, loaded(SPACES[0]).variables)


def test_a_new_classifier(tmp_path):
    net = tiny_efficientnet().clone(arch=replace(tiny_efficientnet().arch, classes=7))
    with pytest.raises(ValueError, match=r"2 of another shape \(classifier.\w+ is "):
        weights.load(DATA / "tiny_efficientnet.npz", net)
    keys = jax.random.key(0), jax.random.key(1)
    first, second = (weights.load(DATA / "tiny_efficientnet.npz", net, classifier_key=key).variables for key in keys)
    fresh = first["params"]["head"].pop("classifier"), second["params"]["head"].pop("classifier")
    assert fresh[0]["kernel"].shape == (48, 7)
    assert np.std(fresh[0]["kernel"]) == pytest.approx(0.01, rel=0.2)
    assert np.abs(fresh[0]["kernel"] - fresh[1]["kernel"]).max() > 0.01
    jax.tree.map(np.testing.assert_array_equal, first, second)


def change(**values):
    return lambda content: {key: value for key, value in (content | values).items() if value is not None}


WRONG = {
    "missing": (
        change(**{f"blocks.0.0.bn1.{leaf}": None for leaf in ("weight", "bias", "running_mean", "running_var")}),
        r"do not fit the net: 4 missing \(blocks.0.0.bn1.\w+, blocks.0.0.bn1.\w+, blocks.0.0.bn1.\w+, \.\.\.\)$",
    ),
    "unknown": (
        change(**{"blocks.4.0.conv_pw.weight": np.zeros(3), "epoch": np.zeros(())}),
        r"do not fit the net: 2 unknown \(blocks.4.0.conv_pw.weight, epoch\)$",
    ),
    "shape": (
        change(**{"blocks.2.0.conv_dw.weight": np.zeros((48, 1, 3, 3), np.float32)}),
        r"1 of another shape \(blocks.2.0.conv_dw.weight is \[48, 1, 3, 3\], must be \[48, 1, 5, 5\]\)$",
    ),
    "all": (
        change(**{"bn1.weight": None, "bn9.weight": np.zeros(1), "bn1.bias": np.zeros(1)}),
        r"1 missing \(bn1.weight\); 1 unknown \(bn9.weight\); 1 of another shape \(bn1.bias is \[1\], must be \[8\]\)$",
    ),
    "neither": (
        lambda _: {"features.0.weight": np.zeros(1)},
        "neither once-for-all nor timm: it holds features.0.weight",
    ),
    "empty": (lambda _: {}, "it holds no arrays"),
    "objects": (lambda _: {"conv_stem.weight": np.asarray([None])}, r"cannot be read as an \.npz file"),
}


@pytest.mark.parametrize("which", WRONG)
def test_what_does_not_match_is_named_in_one_line(which, tmp_path):
    wrong, message = WRONG[which]
    with pytest.raises(ValueError, match=message) as error:
        weights.load(saved(tmp_path, wrong(arrays("tiny_efficientnet"))), tiny_efficientnet())
    assert "\n" not in str(error.value)


def test_transforms_must_be_there_for_every_block(tmp_path):
    content = arrays("tiny_ofa_proxyless")
    gone = "blocks.3.conv.depth_conv.conv.5to3_matrix"
    with pytest.raises(ValueError, match=f"1 missing .{gone}"):
        weights.load(saved(tmp_path, change(**{gone: None})(content)), NETWORKS["tiny_ofa_proxyless"]())


def test_a_net_with_layers_the_library_does_not_have():
    from dynnas_jax.networks import NETWORKS as ALL

    with pytest.raises(ValueError, match="the net has a layer .*the library of these weights has none like it"):
        weights.load(DATA / "tiny_mobilenet_v3.npz", ALL["fbnet_b"]())


def test_another_net(tmp_path):
    with pytest.raises(
        ValueError, match=r"tiny_mobilenet_v3\.npz: its arrays do not fit the net: \d+ missing .*unknown"
    ):
        weights.load(DATA / "tiny_mobilenet_v3.npz", tiny_efficientnet())
    with pytest.raises(ValueError, match="there is no file of weights"):
        weights.load(tmp_path / "none.npz", tiny_efficientnet())
    (tmp_path / "damaged.npz").write_bytes((DATA / "tiny_mobilenet_v3.npz").read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"damaged\.npz cannot be read as an \.npz file"):
        weights.load(tmp_path / "damaged.npz", tiny_efficientnet())
    with pytest.raises(ValueError, match="library is 'torchvision', choose from"):
        weights.to_state_dict(tiny_efficientnet(), {}, "torchvision")


def test_a_pytorch_file_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "net.pth").write_bytes(b"\x80")
    with pytest.raises(ValueError, match="net.pth: only torch reads such a file, and it is not installed") as error:
        weights.load(tmp_path / "net.pth", tiny_efficientnet())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pytorch_file(tmp_path, wrapped):
    torch = pytest.importorskip("torch")
    state = {key: torch.from_numpy(np.asarray(value)) for key, value in arrays("tiny_efficientnet").items()}
    path = tmp_path / "ofa_mbv3_w1.0"  # once-for-all's files have no suffix
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, path)
    found = weights.load(path, tiny_efficientnet())
    jax.tree.map(np.testing.assert_array_equal, found.variables, loaded("tiny_efficientnet").variables)
    torch.save({"state_dict": [1]}, path)
    with pytest.raises(ValueError, match="holds no state dict"):
        weights.load(path, tiny_efficientnet())
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be read as a PyTorch file"):
        weights.load(path, tiny_efficientnet())


# A recipe that starts from weights.


@pytest.fixture
def job(tmp_path):
    """A job whose supernet has the conventions of its weights, which stand in weights.npz."""
    supernet = loaded("tiny_ofa_proxyless").network
    images = SimpleNamespace(train=np.zeros((1, 40, 40, 3), np.uint8))
    shared = {"seed": 0, "augment": None, "key": jax.random.key, "workdir": SimpleNamespace(config={})}
    shared["kind"] = kinds.SUPERNET
    return SimpleNamespace(supernet=supernet, images=images, **shared)


def started_from(job, monkeypatch, **options):
    """The variables that the stage hands to the training loop."""
    given = {}

    def fit(*_, initial, **__):
        given["initial"] = initial
        raise InterruptedError

    monkeypatch.setattr(train, "evaluator", lambda *_: None)
    monkeypatch.setattr(train.loop, "fit", fit)
    with pytest.raises(InterruptedError):
        train.run(job, Path(), steps=1, **options)
    return given["initial"]


def test_the_stage_starts_from_the_file(job, monkeypatch):
    assert started_from(job, monkeypatch) is None
    path = str(DATA / "tiny_ofa_proxyless.npz")
    same = started_from(job, monkeypatch, start_from=path)
    jax.tree.map(np.testing.assert_array_equal, same, loaded("tiny_ofa_proxyless").variables)
    new = started_from(job, monkeypatch, start_from=path, new_classifier=True)
    assert np.abs(new["params"]["head"]["classifier"]["kernel"]).max() < 0.1
    np.testing.assert_array_equal(new["params"]["head"]["conv"]["kernel"], same["params"]["head"]["conv"]["kernel"])


def test_the_stage_refuses_a_supernet_of_other_conventions(job, monkeypatch):
    job.supernet = NETWORKS["tiny_ofa_proxyless"]()
    with pytest.raises(ValueError, match=r"give supernet\.padding='symmetric' and supernet\.epsilon=0\.001"):
        started_from(job, monkeypatch, start_from=str(DATA / "tiny_ofa_proxyless.npz"))
