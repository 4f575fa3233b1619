"""Training in two processes of four devices, the second half from streamed images, against one process of one device."""

import json
import textwrap

import numpy as np
import pytest
from PIL import Image

from dynnas_jax import devices

# run(mesh, directory, **options) -> the averaged params of a short training, on images in memory or in their files.
RUN = textwrap.dedent("""
    import jax, numpy as np
    from dynnas_jax import devices
    from dynnas_jax.data import augment, mixing, sources
    from dynnas_jax.networks import ofa
    from dynnas_jax.train import loop, sandwich

    def run(folder, mesh, directory, *, stream=None, steps=4, **options):
        supernet = ofa.small_images(
            image_size=8, channels=1, mean=(0.4,), std=(0.3,), classes=3, stem=4, stage_widths=(8,), stage_strides=(2,),
            head=8, widths=(0.5, 1.0), depths=(1,), kernels=(3, 5), expands=(1, 2), divisor=4,
        )
        final = loop.fit(
            supernet, sources.load(folder, holdout=0, stream=stream).train, sandwich.rule(random_subnets=1), steps=steps,
            batch_size=16, optimizer={"learning_rate": 0.05, "warm_up": 0.2}, augment=augment.rule(pad=1),
            mix=mixing.rule(mixup=0.2), mesh=mesh, directory=directory, checkpoint_every=2, log_every=1, **options,
        )
        return devices.on_host(final.averaged["params"])
""")
PROCESS = RUN + textwrap.dedent("""
    import shutil, sys
    from pathlib import Path
    from dynnas_jax import processes
    processes.join(sys.argv[1], 2, int(sys.argv[2]))
    folder, out = sys.argv[3], Path(sys.argv[4])
    whole = run(folder, devices.data_mesh(), out / "whole")
    processes.wait_for_all("whole")
    if processes.is_first():
        shutil.rmtree(out / "whole" / "checkpoints" / "4")
    processes.wait_for_all("as if stopped after two steps")
    resumed = run(folder, devices.data_mesh(), out / "whole", stream={"threads": 1})
    if processes.is_first():
        for name, params in (("whole", whole), ("resumed", resumed)):
            np.savez(out / f"{name}.npz", *jax.tree.leaves(params))
    processes.wait_for_all("written")
""")


@pytest.fixture(scope="module")
def folder(split, tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for index, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        path = root / ("test" if index >= 32 else "train") / str(label) / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    return str(root)


def logged(directory):
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("time_s", "images_per_s", "wait_share")} for row in rows]


def leaves(file):
    with np.load(file) as content:
        return [content[name] for name in content.files]


def test_two_processes_train_as_one_device(folder, two_processes, tmp_path):
    import jax

    two_processes(PROCESS, folder, tmp_path)
    scope: dict = {}
    exec(RUN, scope)
    params = scope["run"](folder, devices.data_mesh(1), tmp_path / "one")
    for one, two in zip(logged(tmp_path / "one"), logged(tmp_path / "whole"), strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            np.testing.assert_allclose(two[name], value, rtol=2e-4, atol=1e-6, err_msg=f"{name}, step {one['step']}")
    for name in ("whole", "resumed"):
        for expected, found in zip(jax.tree.leaves(params), leaves(tmp_path / f"{name}.npz"), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * max(0.1, np.abs(expected).max()))
    saved = sorted(path.name for path in (tmp_path / "whole" / "checkpoints").iterdir() if path.name.isdigit())
    assert saved == ["2", "4"]
