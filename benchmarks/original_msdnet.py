"""What the authors' MSDNet answers: a tiny instance with random weights and statistics, for the tests.

    git clone https://github.com/kalviny/MSDNet-PyTorch
    python benchmarks/original_msdnet.py MSDNet-PyTorch tests/networks/data/tiny_msdnet.npz

Needs torch, not JAX. The file holds the state dict in float32, two images (uint8[2, 128, 128, 3]) and, computed in float64, the
logits of both exits, [2, 2, 3].
"""

import argparse
import contextlib
import io
import sys
import types
from pathlib import Path

import numpy as np
import torch

SETTING = {
    "data": "ImageNet",
    "nBlocks": 2,
    "base": 3,
    "step": 2,
    "stepmode": "even",
    "nChannels": 4,
    "growthRate": 2,
    "grFactor": [1, 2, 2],
    "bnFactor": [1, 2, 2],
    "bottleneck": True,
    "nScales": 3,
    "prune": "max",
    "reduction": 0.5,
}
CLASSES, SIDE = 3, 128
MEAN, STD = np.asarray([0.485, 0.456, 0.406]), np.asarray([0.229, 0.224, 0.225])


def net_of(repository: Path) -> torch.nn.Module:
    """The authors' net of `SETTING` with few classes, in float64 and evaluation mode."""
    sys.path.insert(0, str(repository / "models"))
    import msdnet

    class Few(msdnet.MSDNet):
        def _build_classifier_imagenet(self, channels, _):
            return super()._build_classifier_imagenet(channels, CLASSES)

    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        return Few(types.SimpleNamespace(**SETTING)).double().eval()


def randomise(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Norms, biases and the dense layers like a trained net's, exact in float32; the state dict."""
    generator = torch.Generator().manual_seed(1)
    state = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    for name, value in state.items():
        if value.ndim != 4:
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            positive = name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1)
            value.copy_(1 + 0.2 * noise.abs() if positive else 0.1 * noise if value.ndim == 1 else noise / 8)
        value.copy_(value.float().double())
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("output", type=Path)
    asked = parser.parse_args()
    net = net_of(asked.repository)
    state = randomise(net)
    tiles = np.random.default_rng(0).integers(0, 256, (2, SIDE // 8, SIDE // 8, 3))
    images = np.kron(tiles, np.ones((1, 8, 8, 1), int)).astype(np.uint8)
    normalised = ((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    with torch.no_grad():
        logits = np.stack([exit.numpy() for exit in net(torch.from_numpy(normalised))])
    arrays = {name: value.numpy().astype(np.float32) for name, value in state.items()}
    np.savez_compressed(asked.output, **arrays, images=images, logits=logits)


if __name__ == "__main__":
    main()
