"""The MBConv net in plain PyTorch, built from our arch as JSON, as a yardstick for `step.py`, which starts this file.

Reads one JSON line {"arch": ..., "batch": ...} from stdin and answers {"version", "threads", "params", "macs"}; then, for
every further line, makes one warm training step and one timed one and answers [seconds, processor seconds]. Convolutions
pad symmetrically: the output sizes, the work and the params are those of SAME.
"""

import json
import sys
import time

import torch
from torch import nn

ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hswish": nn.Hardswish, "swish": nn.SiLU}
KNOWN = ("kernel", "hidden", "out", "stride", "act", "se", "expand", "shortcut")
GATES = {"hard_sigmoid": nn.Hardsigmoid, "sigmoid": nn.Sigmoid}


def conv_norm(arch: dict, inputs: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out, arch["epsilon"]),
    ]


class SqueezeExcite(nn.Module):
    def __init__(self, arch: dict, channels: int, hidden: int):
        super().__init__()
        reduce, expand = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        act, gate = ACTIVATIONS[arch["se_act"]](), GATES[arch["se_gate"]]()
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), reduce, act, expand, gate)

    def forward(self, x):
        return x * self.scale(x)


class MBConv(nn.Module):
    def __init__(self, arch: dict, spec: dict, inputs: int):
        super().__init__()
        act, hidden = ACTIVATIONS[spec["act"]], spec["hidden"]
        layers = [*conv_norm(arch, inputs, hidden), act()] if spec["expand"] else []
        layers += [*conv_norm(arch, hidden, hidden, spec["kernel"], spec["stride"], hidden), act()]
        layers += [SqueezeExcite(arch, hidden, spec["se"])] if spec["se"] else []
        self.layers = nn.Sequential(*layers, *conv_norm(arch, hidden, spec["out"]))
        self.shortcut = spec["shortcut"]

    def forward(self, x):
        return x + self.layers(x) if self.shortcut else self.layers(x)


def check(spec: dict) -> None:
    """Raises ValueError for a block that is not written here."""
    plain = {"shortcut_conv": False, "groups": 1, "depthwise": 1}
    odd = [f"{name}={spec[name]}" for name, value in plain.items() if spec[name] != value]
    odd += [name for name in spec if name not in KNOWN and name not in plain]
    odd += ["a shortcut over a stride"] if spec["shortcut"] and spec["stride"] > 1 else []
    if odd:
        raise ValueError(f"benchmarks/torch_net.py: blocks with {', '.join(odd)} are not written here")


def build(arch: dict) -> nn.Module:
    """Images float[b, c, h, w], already normalised -> logits[b, classes]."""
    if arch["head_features"]:
        raise ValueError(
            "benchmarks/torch_net.py: a layer behind the pooling is not written here; set head_features to 0"
        )
    width = arch["stem_out"]
    layers = [*conv_norm(arch, arch["channels"], width, 3, arch["stem_stride"]), ACTIVATIONS[arch["stem_act"]]()]
    for _, specs in arch["stages"]:
        for spec in specs:
            check(spec)
            layers.append(MBConv(arch, spec, width))
            width = spec["out"]
    layers += [*conv_norm(arch, width, arch["head_conv"]), ACTIVATIONS[arch["head_act"]]()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(arch["head_conv"], arch["classes"]))


def count(net: nn.Module, image: torch.Tensor) -> dict[str, int]:
    """Params, and the multiply-accumulates of convolutions and linear layers for one image."""
    macs = []

    def add(module, _, output):
        macs.append(output[0].numel() * module.weight[0].numel())

    hooks = [m.register_forward_hook(add) for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        net.eval()(image)
    for hook in hooks:
        hook.remove()
    return {"params": sum(p.numel() for p in net.parameters()), "macs": sum(macs)}


def main() -> None:
    task = json.loads(sys.stdin.readline())
    arch, batch = task["arch"], task["batch"]
    images = torch.rand(batch, arch["channels"], arch["resolution"], arch["resolution"])
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(arch["classes"], (batch,))
    net = build(arch).to(memory_format=torch.channels_last)
    facts = {"version": torch.__version__, "threads": torch.get_num_threads(), **count(net, images[:1])}
    print(json.dumps(facts), flush=True)
    optimizer = torch.optim.SGD(net.train().parameters(), lr=0.01, momentum=0.9, nesterov=True)

    def step() -> list[float]:
        start, cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        return [time.perf_counter() - start, time.process_time() - cpu]

    for _ in range(3):
        step()
    for _ in sys.stdin:
        step()
        print(step(), flush=True)


if __name__ == "__main__":
    main()
