"""What the first process knows, on two, bit by bit."""

import json
import textwrap

import numpy as np
import pytest

from dynnas_jax.train import agreement


def test_one_process_agrees_with_itself():
    assert agreement.agreed(lambda: {"a": 1}) == {"a": 1}
    assert agreement.broadcast(b"abc") == b"abc"
    with pytest.raises(KeyError):
        agreement.agreed(lambda: {}["a"])


def test_two_processes(two_processes):
    script = """
        import json, sys
        from dynnas_jax import processes
        me = int(sys.argv[2])
        processes.join(sys.argv[1], 2, me)
        import numpy as np
        from dynnas_jax.train import agreement

        def fails(error):
            def act():
                assert me == 0
                raise error
            try:
                agreement.agreed(act)
            except (ValueError, OSError) as found:
                return [type(found).__name__, str(found), getattr(found, "errno", None)]

        words = np.asarray([-0.0, np.nan, 1e-45, me], np.float32).tobytes() + b"odd"
        found = {
            "value": agreement.agreed(lambda: [me, None, "one line"]),
            "bytes": agreement.broadcast(words if me == 0 else b"").hex(),
            "none": agreement.broadcast(b"").hex(),
            "value_error": fails(ValueError("wrong")),
            "os_error": fails(OSError(28, "full", "here")),
        }
        processes.wait_for_all("end")
        print(json.dumps(found))
    """
    printed = two_processes(textwrap.dedent(script))
    first, second = (json.loads(next(x for x in text.splitlines() if x.startswith("{"))) for text in printed)
    expected = np.asarray([-0.0, np.nan, 1e-45, 0], np.float32).tobytes() + b"odd"
    for found in (first, second):
        assert found["value"] == [0, None, "one line"]
        assert (bytes.fromhex(found["bytes"]), found["none"]) == (expected, "")
        assert found["value_error"] == ["ValueError", "wrong", None]
        assert (found["os_error"][0], found["os_error"][2]) == ("OSError", 28)
        assert "full" in found["os_error"][1]
