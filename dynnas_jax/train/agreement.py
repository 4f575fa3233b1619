"""What the first of several processes knows or does, told to all. One process agrees with itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dynnas_jax import processes


def agreed(act: Callable[[], Any]) -> Any:
    """What `act` gives on the first process (JSON-able), on every process; others do not call it.

    Raises:
      ValueError, OSError: on every process, where `act` raises one on the first.
    """
    if not processes.several():
        return act()
    answer, mine = {}, None
    if processes.is_first():
        try:
            answer = {"value": act()}
        except (ValueError, OSError) as error:
            mine, answer = error, {"error": str(error), "errno": getattr(error, "errno", None)}
    answer = json.loads(broadcast(json.dumps(answer).encode()))
    if mine is not None:
        raise mine
    if "error" in answer:
        raise OSError(answer["errno"], answer["error"]) if answer["errno"] else ValueError(answer["error"])
    return answer["value"]


def broadcast(content: bytes) -> bytes:
    """The first process's bytes, on every process."""
    if not processes.several():
        return content
    from jax.experimental import multihost_utils

    processes.wait_for_all("broadcast")  # the first may have done much meanwhile
    size = int(multihost_utils.broadcast_one_to_all(np.uint32(len(content))))
    # It sums over the processes: integers, since a sum of floats would lose the sign of a zero.
    words = np.zeros(math.ceil(size / 4), np.uint32)
    if processes.is_first():
        words.view(np.uint8)[:size] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(words)).tobytes()[:size]
