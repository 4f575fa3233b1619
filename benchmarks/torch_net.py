"""The MBConv supernet in plain PyTorch, built from our archs as JSON: `step.py` and `peers.py` start this file.

Weights are those of the largest arch; a pass of a subnet slices them: leading channels, the centre of depthwise kernels, the
first blocks of a stage. Convolutions pad symmetrically: the output sizes, the work and the params are those of SAME.

Reads one JSON line {"archs": {"largest": ..., "smallest": ...}, "random": [[arch, ...], ...], "batch": n, "precision": "float32"}
from stdin and answers {"version", "device", "threads", "costs"}; then, for every further line, makes one warm training step and
one timed one and answers [seconds, processor seconds]. A step with nothing but a largest arch trains that; else it is the
sandwich rule's: the largest learns the labels, the smallest and the next of `random` learn what the largest answers.
"""

import itertools
import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

ACTIVATIONS = {"relu": nn.ReLU(), "relu6": nn.ReLU6(), "hswish": nn.Hardswish(), "swish": nn.SiLU()}
GATES = {"hard_sigmoid": nn.Hardsigmoid(), "sigmoid": nn.Sigmoid()}
KNOWN = ("kernel", "hidden", "out", "stride", "act", "se", "expand", "shortcut")


class Conv(nn.Conv2d):
    """A convolution, dense or depthwise, of as many input channels as come and as many outputs as asked for."""

    def __init__(self, inputs: int, out: int, kernel: int = 1, stride: int = 1, *, depthwise=False, bias=False):
        super().__init__(inputs, out, kernel, stride, groups=inputs if depthwise else 1, bias=bias)
        self.depthwise = depthwise

    def forward(self, x, out: int, kernel: int = 1):
        edge = (self.weight.shape[-1] - kernel) // 2
        window = slice(edge, edge + kernel)
        weight = self.weight[:out, : 1 if self.depthwise else x.shape[1], window, window]
        bias = None if self.bias is None else self.bias[:out]
        groups = out if self.depthwise else 1
        return functional.conv2d(x, weight, bias, self.stride, kernel // 2, groups=groups)


class Norm(nn.BatchNorm2d):
    """Batch norm of as many channels as come; only the largest net moves the running statistics."""

    def forward(self, x, keep: bool):
        n = x.shape[1]
        running = (self.running_mean[:n], self.running_var[:n]) if keep or not self.training else (None, None)
        scale, bias = self.weight[:n], self.bias[:n]
        return functional.batch_norm(x, *running, scale, bias, self.training, self.momentum, self.eps)


class ConvNorm(nn.Module):
    """A convolution, its norm and its activation."""

    def __init__(self, epsilon: float, inputs: int, out: int, kernel: int = 1, stride: int = 1, depthwise=False):
        super().__init__()
        self.conv, self.norm = Conv(inputs, out, kernel, stride, depthwise=depthwise), Norm(out, epsilon)

    def forward(self, x, keep: bool, out: int, kernel: int = 1, act: str = ""):
        x = self.norm(self.conv(x, out, kernel), keep)
        return ACTIVATIONS[act](x) if act else x


class SqueezeExcite(nn.Module):
    def __init__(self, arch: dict, channels: int, hidden: int):
        super().__init__()
        self.reduce, self.expand = Conv(channels, hidden, bias=True), Conv(hidden, channels, bias=True)
        self.act, self.gate = ACTIVATIONS[arch["se_act"]], GATES[arch["se_gate"]]

    def forward(self, x, hidden: int):
        scale = self.act(self.reduce(functional.adaptive_avg_pool2d(x, 1), hidden))
        return x * self.gate(self.expand(scale, x.shape[1]))


class MBConv(nn.Module):
    def __init__(self, arch: dict, spec: dict, inputs: int):
        super().__init__()
        epsilon, hidden = arch["epsilon"], spec["hidden"]
        self.expand = ConvNorm(epsilon, inputs, hidden) if spec["expand"] else None
        self.depthwise = ConvNorm(epsilon, hidden, hidden, spec["kernel"], spec["stride"], depthwise=True)
        self.se = SqueezeExcite(arch, hidden, spec["se"]) if spec["se"] else None
        self.project = ConvNorm(epsilon, hidden, spec["out"])

    def forward(self, x, spec: dict, keep: bool):
        hidden, y = spec["hidden"], x
        if self.expand is not None:
            y = self.expand(y, keep, hidden, act=spec["act"])
        y = self.depthwise(y, keep, hidden, spec["kernel"], spec["act"])
        if self.se is not None:
            y = self.se(y, spec["se"])
        y = self.project(y, keep, spec["out"])
        return x + y if spec["shortcut"] else y


def check(spec: dict) -> None:
    """Raises ValueError for a block that is not written here."""
    plain = {"shortcut_conv": False, "groups": 1, "depthwise": 1}
    odd = [f"{name}={spec[name]}" for name, value in plain.items() if spec[name] != value]
    odd += [name for name in spec if name not in KNOWN and name not in plain]
    odd += ["a shortcut over a stride"] if spec["shortcut"] and spec["stride"] > 1 else []
    if odd:
        raise ValueError(f"benchmarks/torch_net.py: blocks with {', '.join(odd)} are not written here")


class Net(nn.Module):
    """Images float[b, c, h, w], already normalised, and the arch of a subnet -> logits[b, classes]."""

    def __init__(self, arch: dict):
        super().__init__()
        epsilon, width = arch["epsilon"], arch["stem_out"]
        self.stem = ConvNorm(epsilon, arch["channels"], width, 3, arch["stem_stride"])
        self.stages = nn.ModuleList()
        for _, specs in arch["stages"]:
            blocks = nn.ModuleList()
            for spec in specs:
                check(spec)
                blocks.append(MBConv(arch, spec, width))
                width = spec["out"]
            self.stages.append(blocks)
        self.head = ConvNorm(epsilon, width, arch["head_conv"])
        features, bias = arch["head_features"], arch["head_features_bias"]
        self.features = Conv(arch["head_conv"], features, bias=bias) if features else None
        self.classifier = nn.Linear(features or arch["head_conv"], arch["classes"])

    def forward(self, x, arch: dict, keep: bool = False):
        x = self.stem(x, keep, arch["stem_out"], 3, arch["stem_act"])
        for blocks, (_, specs) in zip(self.stages, arch["stages"], strict=True):
            for block, spec in zip(blocks, specs, strict=False):  # a subnet's stage has the first of the blocks
                x = block(x, spec, keep)
        x = self.head(x, keep, arch["head_conv"], act=arch["head_act"])
        x = functional.adaptive_avg_pool2d(x, 1)
        if self.features is not None:
            x = ACTIVATIONS[arch["head_act"]](self.features(x, arch["head_features"]))
        x = x.flatten(1)
        return functional.linear(x, self.classifier.weight[:, : x.shape[1]], self.classifier.bias)


def macs(function, *arguments) -> int:
    """The multiply-accumulates of convolutions and matrix products in a call, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops() // 2


@torch.no_grad()
def costs(net: nn.Module, archs: dict[str, dict], image: torch.Tensor) -> dict[str, dict[str, int]]:
    """MACs of each subnet for one image, in the slices of `net`, and the params of a net of its own."""
    return {
        name: {
            "params": sum(p.numel() for p in Net(arch).parameters()),
            "macs": macs(net.eval(), image, arch),
        }
        for name, arch in archs.items()
    }


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def random_batch(arch: dict, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, channels last, and labels, on the device."""
    images = torch.rand(batch, arch["channels"], arch["resolution"], arch["resolution"])
    labels = torch.randint(arch["classes"], (batch,))
    return images.to(device(), memory_format=torch.channels_last), labels.to(device())


def sandwich(run, optimizer, batch, others: list, precision: str) -> None:
    """One step: `run(images, None)` is the largest net's answer and learns the labels, the others learn that answer."""
    images, targets = batch
    optimizer.zero_grad()
    for arch in (None, *others):
        with torch.autocast(device().type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = run(images, arch)
            loss = functional.cross_entropy(logits, targets) / (1 + len(others))
        loss.backward()
        if arch is None:
            targets = functional.softmax(logits.detach().float(), 1)
    optimizer.step()


def timed(step) -> list[float]:
    """Seconds and processor seconds of a call, to the end of its work on the device."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start, cpu = time.perf_counter(), time.process_time()
    step()
    wait()
    return [time.perf_counter() - start, time.process_time() - cpu]


def serve(facts: dict, step) -> None:
    """Answers with the facts, then one timed step for each line that comes."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    facts = {"version": torch.__version__, "device": name, "threads": torch.get_num_threads(), **facts}
    for _ in range(3):
        step()
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        step()
        print(json.dumps(timed(step)), flush=True)


def main() -> None:
    task = json.loads(sys.stdin.readline())
    archs = task["archs"]
    batch = random_batch(archs["largest"], task["batch"])
    torch.backends.cudnn.benchmark = True
    net = Net(archs["largest"]).to(device(), memory_format=torch.channels_last)
    facts = {"costs": costs(net, archs, batch[0][:1])}
    optimizer = torch.optim.SGD(net.train().parameters(), lr=0.01, momentum=0.9, nesterov=True)
    smallest = [archs["smallest"]] if "smallest" in archs else []
    draws = itertools.cycle(task.get("random") or [[]])

    def run(images, arch):
        return net(images, arch or archs["largest"], keep=arch is None)

    serve(facts, lambda: sandwich(run, optimizer, batch, [*smallest, *next(draws)], task["precision"]))


if __name__ == "__main__":
    main()
