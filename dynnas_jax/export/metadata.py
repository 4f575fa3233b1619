"""The `dynnas` metadata of an exported file: what the nets are, how they follow each other, and when one answers.

A copy of this module lies in every export folder. Light: numpy at most.
"""

from __future__ import annotations

import importlib.util
import json
import re
import reprlib
from pathlib import Path

if __package__:
    from dynnas_jax import confidence
    from dynnas_jax.export import flatbuffer, targets
else:  # lying alone in an export folder
    import confidence
    import flatbuffer
    import targets

VERSION = 2
RULE = "first_above"  # the first step whose score is strictly above its threshold answers, else the last
ROUTED = "routed"  # the net `router` runs first; where its score is strictly above the threshold the first step answers
PICKED = (
    "picked"  # the net `router` runs first; it and others score what may follow them, and the highest is run: `routes`
)
OWN_SCORE = "own"  # the policy's score where each step computes it itself, as its output `score`
ONNX_KEY = "dynnas"
PRECISIONS = targets.PRECISIONS
_FILE = re.compile(rf".+_({'|'.join(PRECISIONS)})\.(tflite|onnx)")
_COMPILED = "_edgetpu.tflite"  # how the Edge TPU compiler names its output
_GRAPH, _PROPERTIES = 7, 14  # fields of ONNX's ModelProto
_ONNX_FIELDS = frozenset((*range(1, 9), _PROPERTIES, 20, 25, 26))
_LARGEST_BYTES = 2**24  # of one metadata entry
MOST_WAYS, MOST_IN_TURN = 10_000, 100  # behind a router, and nets on one of them: all ways are listed


def read(path: str | Path) -> dict:
    """The metadata of a `.tflite` or `.onnx` file, checked.

    Raises: ValueError if the file is absent or damaged, carries none, or one that this version does not understand.
    """
    path = Path(path)
    content = read_onnx(path) if path.suffix == ".onnx" else flatbuffer.read_metadata(path)
    if not content:
        raise ValueError(f"{path} carries no `dynnas` metadata: it was not exported by dynnas")
    return check(content, path.name)


def check(content: dict, where: str) -> dict:
    """The same metadata, if it is complete and of the right kinds; `where` names its origin in messages.

    Raises: ValueError naming what is wrong.
    """
    wrong = _first_wrong(content)
    if wrong:
        raise ValueError(f"the metadata of {where} {wrong}: export it again, or take the runtime of its own folder")
    return content


def _first_wrong(content: dict) -> str | None:
    """What is wrong with the metadata, or None."""
    if not isinstance(content, dict) or content.get("version") != VERSION:
        return f"is not of version {VERSION}"
    if wrong := next(
        (key for key in ("target", "precision") if not isinstance(content.get(key), (str, type(None)))), None
    ):
        return f"has a {wrong} of {reprlib.repr(content[wrong])}"
    texts, shape = content.get("labels"), content.get("image_shape")
    if not _all(texts, str) or len(texts) < 2:
        return "has no two labels"
    if not _all(shape, int) or len(shape) != 3 or min(shape) < 1:
        return "has no image_shape of height, width, channels"
    steps, files = content.get("steps"), content.get("files")
    if not _all(steps, str) or not steps or not _all(content.get("whole", []), str):
        return "names no steps"
    if not isinstance(content.get("router", ""), str):
        return f"names {reprlib.repr(content['router'])} as the router"
    if len(set(steps)) < len(steps):
        return "names a step twice"
    names = (*in_turn(content), *content.get("whole", []))
    if not isinstance(files, dict) or not all(_is_plain_name(files.get(name)) for name in names):
        return "does not give a file of this folder for each net"
    if not _are_signatures(content.get("signatures", {})):
        return "has signatures that do not give the shapes of each net's inputs and outputs"
    if picks(content) and (wrong := _wrong_routes(content) or _wrong_ways(content)):
        return wrong
    return _wrong_policy(content, len(choices(content)))


def _wrong_routes(content: dict) -> str | None:
    """What is wrong with where nets lead to: each only to later ones, and every one is led to."""
    order, given = in_turn(content), content.get("routes", {})
    if not isinstance(given, dict) or not all(_all(names, str) and names for names in given.values()):
        return "has routes that lead nowhere"
    reached, following = {order[0]}, routes(content)
    places = {name: place for place, name in enumerate(order)}
    for place, name in enumerate(order):
        behind = following.get(name, [])
        if name not in reached or not all(places.get(other, -1) > place for other in behind):
            return f"has routes that do not lead through {reprlib.repr(name)} in order"
        reached.update(behind)
    return None if set(given) <= set(order) else "has routes of nets that it does not name"


def _wrong_ways(content: dict) -> str | None:
    """What is wrong with the ways that nets lead, which may double from net to net: counted before `choices` lists them."""
    following, ways, lengths = routes(content), {}, {}
    for name in reversed(in_turn(content)):  # what it leads to is known by now
        behind = following.get(name, [])
        ways[name] = sum(ways[other] for other in behind) if behind else 1
        lengths[name] = 1 + max((lengths[other] for other in behind), default=0)
        if ways[name] > MOST_WAYS or lengths[name] > MOST_IN_TURN:
            return f"has more than {MOST_WAYS} ways behind its router, or more than {MOST_IN_TURN} nets on one"
    return None


def _wrong_policy(content: dict, steps: int) -> str | None:
    policy, thresholds = content.get("policy"), content.get("thresholds")
    picked = picks(content)
    wanted = 0 if picked else steps - 1
    if not _all(thresholds, (int, float)) or len(thresholds) != wanted or not all(0 <= t <= 1 for t in thresholds):
        return f"does not give {wanted} thresholds in [0, 1] for {steps} steps"
    if not _all(content.get("cost"), int) or len(content["cost"]) != steps:
        return "does not give the cost of each step"
    rule = ROUTED if "router" in content else RULE
    known = isinstance(policy, dict) and (picked or policy.get("rule") == rule)
    if not known or (rule == ROUTED and steps != 2 and not picked):
        return f"has another policy than {rule!r}" + (" of two steps" if rule == ROUTED else "")
    if policy.get("score") not in (*confidence.SCORES, OWN_SCORE):
        return f"has an unknown score {reprlib.repr(policy.get('score'))}"
    share = content.get("central_share", 1.0)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        return f"has a central_share of {reprlib.repr(share)}"
    return None


def _are_signatures(given) -> bool:
    """Whether these are, of nets by name, shapes by the names of inputs and of outputs."""
    nets = list(given.values()) if isinstance(given, dict) else [None]
    sides = [net.get(side) if isinstance(net, dict) else None for net in nets for side in ("inputs", "outputs")]
    return all(isinstance(side, dict) and all(_all(shape, int) for shape in side.values()) for side in sides)


def _all(values, kind) -> bool:
    """Whether this is a list of values of a kind (True is no number)."""
    return isinstance(values, list) and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)


def _is_plain_name(name) -> bool:
    """Whether this names a file in the folder itself: nothing in a file leads the runtime elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def find(path: str | Path, precision: str | None, delegate: str | None) -> tuple[dict, dict[str, Path]]:
    """(metadata, the file of each net) of an export, by its folder or one of its files.

    Raises: ValueError where there is none, or not of that precision.
    """
    path = Path(path)
    if path.is_dir():
        path = _of_folder(path, precision)
    elif precision is not None and path.is_file() and _precision(path) != precision:
        path = _of_folder(path.parent, precision)
    compiled = path.name.endswith(_COMPILED)
    plain = path.with_name(path.name[: -len(_COMPILED)] + ".tflite") if compiled else path
    told = read(plain if plain.exists() else path)
    names = {name: told["files"][name] for name in (*in_turn(told), *told.get("whole", []))}
    if plain.name not in names.values():  # renamed: then it holds all nets itself
        return told, dict.fromkeys(names, path)
    files = {name: path.parent / file for name, file in names.items()}
    if compiled or (delegate is not None and told.get("target") == "edgetpu"):
        files = {name: file.with_name(f"{file.stem}{_COMPILED}") for name, file in files.items()}
    for name in in_turn(told):
        if not files[name].exists():
            why = "run the Edge TPU compiler first" if files[name].name.endswith(_COMPILED) else "copy the whole folder"
            raise ValueError(f"{path.parent} has no {files[name].name}: {why}")
    return told, files


def in_turn(told: dict) -> list[str]:
    """The nets that run one after the other: the router, where there is one, and the steps."""
    return ([told["router"]] if "router" in told else []) + told["steps"]


def picks(told: dict) -> bool:
    """Whether a router picks the step by its highest score."""
    policy = told.get("policy")
    return "router" in told and isinstance(policy, dict) and policy.get("rule") == PICKED


def routes(told: dict) -> dict[str, list[str]]:
    """Where nets score what may follow them: of each the names of those, one for each score, the router first; else {}."""
    if not picks(told):
        return {}
    return told.get("routes") or {told["router"]: told["steps"]}


def choices(told: dict) -> list[tuple[str, ...]]:
    """What can answer an image: the nets that run one after the other there behind a router, in the order of its scores."""
    following = routes(told)
    if not following:
        return [(name,) for name in told["steps"]]
    found, begun = [], [(told["router"],)]
    while begun:
        way = begun.pop()
        if way[-1] in following:
            begun += [(*way, other) for other in reversed(following[way[-1]])]
        else:
            found.append(way[1:])
    return found


def _precision(path: Path) -> str | None:
    match = _FILE.fullmatch(path.name.replace(_COMPILED, ".tflite"))
    return match.group(1) if match else None


def _of_folder(folder: Path, precision: str | None) -> Path:
    """A file of the precision that is asked for, or that the folder's target runs best; TFLite where it can be run."""
    litert = importlib.util.find_spec("ai_edge_litert") is not None
    order = (".tflite", ".onnx") if litert else (".onnx", ".tflite")
    files = sorted((file for file in folder.iterdir() if _FILE.fullmatch(file.name)), key=lambda f: f.name)
    files = [file for suffix in order for file in files if file.suffix == suffix]
    if not files and any(file.name.endswith(_COMPILED) for file in folder.iterdir()):
        raise ValueError(f"{folder} has only what the Edge TPU compiler made: copy the files that it read beside them")
    if not files:
        raise ValueError(f"{folder} holds no exported model (such as model_int8.tflite)")
    there = list(dict.fromkeys(_precision(file) for file in files))
    if precision is not None and precision not in there:
        raise ValueError(f"{folder} has no {precision} files, but {', '.join(there)}")
    if precision is None:
        target = targets.TARGETS.get(read(files[0]).get("target"))
        best = [name for name in (target.precisions if target else ()) if name in there]
        precision = best[-1] if best else there[-1]
    return next(file for file in files if _precision(file) == precision)


def read_onnx(path: str | Path) -> dict:
    """The `dynnas` entry of an ONNX file, {} without one, read field by field: the graph itself is skipped.

    Raises: ValueError if the file is absent, truncated or no ONNX file, or the entry is no JSON object.
    """
    path, found, fields = Path(path), {}, set()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            while file.tell() < size:
                field, length = _next_field(file, size)
                fields.add(field)
                if field == _PROPERTIES:
                    found |= _property(file.read(length))
                else:
                    file.seek(length, 1)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is truncated, damaged or not an ONNX file: export it again") from error
    if _GRAPH not in fields or not fields <= _ONNX_FIELDS:
        raise ValueError(f"{path} is not an ONNX file")
    try:
        content = json.loads(found.get(ONNX_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the `dynnas` metadata of {path} is not JSON: export it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"the `dynnas` metadata of {path} is no JSON object: export it again")
    return content


def _next_field(file, size: int) -> tuple[int, int]:
    """(number, bytes that follow) of the protobuf field at the file's position. Raises EOFError past the end."""
    key = _varint(file)
    kind = key & 7
    if kind == 0:
        start = file.tell()
        _varint(file)
        length = file.tell() - start
        file.seek(start)
    elif kind in (1, 5):
        length = 8 if kind == 1 else 4
    elif kind == 2:
        length = _varint(file)
    else:
        raise EOFError
    if file.tell() + length > size or (key >> 3 == _PROPERTIES and length > _LARGEST_BYTES):
        raise EOFError
    return key >> 3, length


def _varint(file) -> int:
    value = 0
    for place in range(10):
        byte = file.read(1)
        if not byte:
            raise EOFError
        value |= (byte[0] & 127) << 7 * place
        if byte[0] < 128:
            return value
    raise EOFError


def _property(entry: bytes) -> dict[str, str]:
    """{key: value} of one of ONNX's metadata_props: field 1 is the key, field 2 the value."""
    import io

    file, parts = io.BytesIO(entry), {}
    while file.tell() < len(entry):
        field, length = _next_field(file, len(entry))
        parts[field] = file.read(length)
    return {parts.get(1, b"").decode(): parts.get(2, b"").decode()}
