"""Arrays of a mesh, in one process and in two."""

import json
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

from dynnas_jax import devices


def test_a_mesh_has_one_axis_or_two():
    assert dict(devices.data_mesh().shape) == {"data": 8}
    assert dict(devices.data_mesh(2).shape) == {"data": 2}
    assert dict(devices.data_mesh(subnet=2).shape) == {"data": 4, "subnet": 2}
    assert devices.local_mesh() == devices.data_mesh()  # of the only process
    with pytest.raises(ValueError, match="subnet_devices 3 does not divide the 8 devices"):
        devices.data_mesh(subnet=3)


def test_devices_of_several_processes_lie_side_by_side():
    """As a TPU slice of two hosts lists them, neighbours in the torus first."""
    scattered = [SimpleNamespace(process_index=(i // 2) % 2, id=i) for i in range(8)]
    ordered = devices.by_process(scattered)
    assert [device.process_index for device in ordered] == [0] * 4 + [1] * 4
    assert [device.id for device in ordered] == [0, 1, 4, 5, 2, 3, 6, 7]


def test_arrays_lie_whole_or_split_and_come_back():
    mesh, rows = devices.data_mesh(subnet=2), np.arange(12, dtype=np.int32)
    whole, parts = devices.replicated(mesh, rows), devices.split(mesh, rows)
    assert {shard.data.shape for shard in whole.addressable_shards} == {(12,)}
    assert {shard.data.shape for shard in parts.addressable_shards} == {(3,)}
    found = devices.on_host({"whole": whole, "parts": parts})
    assert all(isinstance(leaf, np.ndarray) for leaf in found.values())
    np.testing.assert_array_equal(found["parts"], rows)
    assert devices.own_rows(mesh, 12) == range(12)


def test_two_processes_share_a_mesh(two_processes):
    script = textwrap.dedent("""
        import json, sys
        from dynnas_jax import devices, processes
        processes.join(sys.argv[1], 2, int(sys.argv[2]))
        import jax, numpy as np
        mesh = devices.data_mesh()
        own = devices.own_rows(mesh, 16)
        rows = np.arange(16, dtype=np.int32) ** 2
        whole, parts = devices.replicated(mesh, rows), devices.split(mesh, rows[own.start : own.stop])
        total = jax.jit(lambda whole, parts: (whole * parts).sum())(whole, parts)
        found = {"total": int(devices.on_host(total)), "rows": devices.on_host(whole).tolist()}
        processes.wait_for_all("end")
        print(json.dumps({**found, "own": [own.start, own.stop], "first": processes.is_first(), "size": mesh.size}))
        hosts = {getattr(device, "slice_index", None) for device in jax.devices()}
        print(json.dumps(len(hosts)))
    """)
    printed = [text.splitlines()[-2:] for text in two_processes(script)]
    found = [json.loads(told) for told, _ in printed]
    assert [int(hosts) for _, hosts in printed] == [two_processes.hosts] * 2
    rows = np.arange(16) ** 2
    for number, of_process in enumerate(found):
        assert of_process == {
            "total": int((rows * rows).sum()),
            "rows": rows.tolist(),
            "own": [8 * number, 8 * number + 8],
            "first": number == 0,
            "size": 8,
        }
