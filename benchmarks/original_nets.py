"""The original PyTorch nets with random weights and their answers, as a yardstick for imported weights.

python benchmarks/original_nets.py FOLDER NAME...

Needs torch, once-for-all (the package `ofa`) and timm. For each name, one of NETS, writes FOLDER/NAME.npz, the state dict,
and FOLDER/NAME_answers.npz: `images` uint8[n, h, w, 3] and `logits` [n, classes]; of a once-for-all supernet also
`subnet_kernel` and `subnet_expand` [s, blocks], `subnet_depth` [s, stages] and `subnet_logits` [s, n, classes] of random
subnets. Prints one JSON object with the versions. Weights are random, statistics too.
The tiny nets (the fixtures of tests/networks) hold values that float16 holds, and are saved so.
"""

import importlib.metadata
import json
import sys
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FULL = {"n_classes": 1000, "ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
TINY = {"n_classes": 5, "ks_list": [3, 5, 7], "expand_ratio_list": [2, 3], "depth_list": [1, 2], "width_mult": 0.11}


def once_for_all(name: str, **options) -> nn.Module:
    from ofa.imagenet_classification.elastic_nn import networks

    return getattr(networks, name)(dropout_rate=0, **options)


def timm_named(name: str) -> nn.Module:
    import timm

    return timm.create_model(name)


def tiny_timm(name: str, rows: list[list[str]], **options) -> nn.Module:
    """timm's own class with a short table of blocks."""
    from timm.models import efficientnet, mobilenetv3
    from timm.models._efficientnet_builder import decode_arch_def

    made = {"MobileNetV3": mobilenetv3.MobileNetV3, "EfficientNet": efficientnet.EfficientNet}[name]
    if name == "MobileNetV3":
        options["se_layer"] = partial(
            mobilenetv3.SqueezeExcite,
            gate_layer="hard_sigmoid",
            force_act_layer=nn.ReLU,
            rd_round_fn=mobilenetv3.round_channels,
        )
    return made(decode_arch_def(rows), num_classes=5, num_features=48, stem_size=8, **options)


V3_ROWS = [
    ["ds_r1_k3_s1_e1_c8_nre"],
    ["ir_r1_k3_s2_e4_c16_nre", "ir_r1_k3_s1_e3_c16_nre"],
    ["ir_r2_k5_s2_e3_c24_se0.25"],
    ["cn_r1_k1_s1_c32"],
]
EFFICIENT_ROWS = [
    ["ds_r1_k3_s1_e1_c8_se0.25"],
    ["ir_r2_k3_s2_e4_c16_se0.25"],
    ["ir_r2_k5_s2_e3_c24_se0.25"],
    ["ir_r1_k3_s1_e3_c32_se0.25"],
]
NETS = {
    "ofa_mobilenet_v3_w1.0": partial(once_for_all, "OFAMobileNetV3", width_mult=1.0, **FULL),
    "ofa_mobilenet_v3_w1.2": partial(once_for_all, "OFAMobileNetV3", width_mult=1.2, **FULL),
    "ofa_proxyless_w1.3": partial(once_for_all, "OFAProxylessNASNets", width_mult=1.3, **FULL),
    "mobilenet_v2": partial(timm_named, "mobilenetv2_100"),
    "mobilenet_v3_small": partial(timm_named, "mobilenetv3_small_100"),
    "mobilenet_v3_large": partial(timm_named, "mobilenetv3_large_100"),
    "efficientnet_b0": partial(timm_named, "efficientnet_b0"),
    "tf_mobilenet_v3_large": partial(timm_named, "tf_mobilenetv3_large_100"),
    "tf_efficientnet_b0": partial(timm_named, "tf_efficientnet_b0"),
    "tiny_ofa_mobilenet_v3": partial(once_for_all, "OFAMobileNetV3", **TINY),
    "tiny_ofa_proxyless": partial(once_for_all, "OFAProxylessNASNets", **TINY),
    "tiny_mobilenet_v3": partial(tiny_timm, "MobileNetV3", V3_ROWS, act_layer=nn.Hardswish),
    "tiny_efficientnet": partial(tiny_timm, "EfficientNet", EFFICIENT_ROWS, act_layer=nn.SiLU),
}


def normalised(images: np.ndarray) -> torch.Tensor:
    """uint8[n, h, w, 3] -> float32[n, 3, h, w]."""
    x = (torch.from_numpy(images).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    return x.permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def set_statistics(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
    """Statistics near those of the input, so that no logit vanishes or explodes behind many layers."""
    variance, mean = torch.var_mean(inputs[0], (0, 2, 3))
    norm.running_mean.copy_(mean + 0.3 * variance.sqrt() * torch.randn_like(mean))
    norm.running_var.copy_(variance * torch.empty_like(mean).uniform_(0.5, 1.5) + 0.01)


@torch.no_grad()
def randomise(net: nn.Module, images: np.ndarray, half: bool) -> None:
    """Random weights, biases and kernel transforms; random statistics that fit the images."""
    hooks = []
    for module in net.eval().modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.normal_(std=(2 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                module.bias.normal_(std=0.3)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.3)
            hooks.append(module.register_forward_pre_hook(set_statistics))
    for name, parameter in net.named_parameters():
        if name.endswith("_matrix"):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    net(normalised(images))
    for hook in hooks:
        hook.remove()
    if half:
        for value in net.state_dict().values():
            value.copy_(value.half() if value.is_floating_point() else value)


@torch.no_grad()
def subnets(net: nn.Module, x: torch.Tensor, count: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Random subnets of a once-for-all supernet and what they answer, with the supernet's statistics."""
    found: dict[str, list] = {"kernel": [], "expand": [], "depth": [], "logits": []}
    for _ in range(count):
        kernel = generator.choice(net.ks_list, len(net.blocks) - 1)
        expand = generator.choice(net.expand_ratio_list, len(net.blocks) - 1)
        depth = [min(int(generator.choice(net.depth_list)), len(group)) for group in net.block_group_info]
        net.set_active_subnet(ks=kernel.tolist(), e=expand.tolist(), d=depth)
        for name, value in (("kernel", kernel), ("expand", expand), ("depth", depth), ("logits", net(x).numpy())):
            found[name].append(value)
    return {f"subnet_{name}": np.stack(values) for name, values in found.items()}


def write(folder: Path, name: str) -> None:
    seed = zlib.crc32(name.encode())
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    tiny = name.startswith("tiny_")
    size, count = (40, 2) if tiny else (224, 4)
    net = NETS[name]()
    randomise(net, generator.integers(0, 256, (16, size, size, 3), np.uint8), tiny)
    images = generator.integers(0, 256, (count, size, size, 3), np.uint8)
    x = normalised(images)
    with torch.no_grad():
        answers = {"images": images, "logits": net(x).numpy()}
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    if tiny:
        state = {key: value.astype(np.float16) if value.dtype == np.float32 else value for key, value in state.items()}
    if hasattr(net, "set_active_subnet"):
        answers |= subnets(net, x, 2, generator)
    np.savez_compressed(folder / f"{name}.npz", **state)
    np.savez_compressed(folder / f"{name}_answers.npz", **answers)


def main() -> None:
    folder, *names = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        write(Path(folder), name)
    import timm

    versions = {"torch": torch.__version__, "timm": timm.__version__}
    try:
        versions["ofa"] = importlib.metadata.version("ofa")
    except importlib.metadata.PackageNotFoundError:
        versions["ofa"] = "from source"
    print(json.dumps(versions))


if __name__ == "__main__":
    main()
