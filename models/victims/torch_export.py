"""A file of `torch.export.save`, read without unpickling and without running anything but `aten` operators."""

import io
import json
import operator
import re
import zipfile
from typing import Any

import torch
from torch import Tensor, nn

from dxray.models.victims.checkpoint import CheckpointError


class Exported(nn.Module):
    """A graph of `torch.export`, run by the loop below.

    `torch.export.load` unpickles sample inputs and weights, and evaluates strings of the file as Python (symbolic
    shapes, guards): a file can run any code. Here JSON and bare bytes are read, and only `aten` operators are called.

    Attributes:
        batch: the only batch size it takes, or None: any. A fixed one is fed in turns, the last one filled up.
        shape: (channels, height, width); None where it is free.
    """

    def __init__(self, payload: bytes) -> None:
        super().__init__()
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            files = {name.split("/", 1)[-1]: name for name in archive.namelist()}
            model = json.loads(archive.read(files["models/model.json"]))
            self._graph = model["graph_module"]["graph"]
            tensors = _stored(archive, files, "weights") | _stored(archive, files, "constants")
        signature = model["graph_module"]["signature"]
        self._names = self._bind(signature["input_specs"], tensors)
        outputs = signature["output_specs"]
        if len(outputs) != 1 or "user_output" not in outputs[0]:
            raise CheckpointError("the exported program gives more than logits; export net.eval() with one output")
        self._output = outputs[0]["user_output"]["arg"]
        self._calls = [(_operator(node["target"]), node) for node in self._graph["nodes"]]
        sizes = [size.get("as_int") for size in self._graph["tensor_values"][self._image]["sizes"]]
        if len(sizes) != 4:
            raise CheckpointError(f"the exported program takes {len(sizes)} dimensions, not images (N, C, H, W)")
        self.batch, self.shape = sizes[0], tuple(sizes[1:])

    def _bind(self, inputs: list[dict[str, Any]], tensors: dict[str, Tensor]) -> dict[str, str]:
        """Keep the tensors as buffers; returns the graph's name of each, and notes what the image is called."""
        names: dict[str, str] = {}
        images = []
        for spec in inputs:
            (kind, held), *_ = spec.items()
            if kind == "user_input":
                images.append(held["arg"]["as_tensor"]["name"])
                continue
            stored = held.get("parameter_name") or held.get("buffer_name") or held.get("tensor_constant_name")
            names[held["arg"]["name"]] = f"stored_{len(names)}"
            self.register_buffer(f"stored_{len(names) - 1}", tensors[stored])
        if len(images) != 1:
            raise CheckpointError(
                f"the exported program takes {len(images)} inputs; export one that takes images alone"
            )
        self._image = images[0]
        return names

    def forward(self, images: Tensor) -> Tensor:
        images = row_by_row(images)
        if self.batch is None:
            return self._run(images)
        given = []
        for part in images.split(self.batch):
            filled = torch.cat([part, part[:1].expand(self.batch - len(part), *part.shape[1:])])
            given.append(self._run(filled)[: len(part)])
        return torch.cat(given)

    def _run(self, images: Tensor) -> Tensor:
        values: dict[str, Any] = {name: getattr(self, held) for name, held in self._names.items()}
        values[self._image] = images
        for function, node in self._calls:
            named = {given["name"]: _argument(given["arg"], values) for given in node["inputs"]}
            # aten names its arguments, Python's operators do not
            found = function(**named) if isinstance(function, torch._ops.OpOverload) else function(*named.values())
            outputs = node["outputs"]  # none of an assertion
            for output, value in zip(outputs, found if len(outputs) > 1 else [found] * len(outputs), strict=True):
                _assign(output, value, values)
        return _argument(self._output, values)


# The numbers by which torch.export writes types, as its schema fixes them.
_DTYPES = dict(
    zip(
        (1, 2, 3, 4, 5, 6, 7, 8, 12, 13),
        (
            *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
            *(torch.float16, torch.float32, torch.float64, torch.bool, torch.bfloat16),
        ),
        strict=True,
    )
)
_MEMORY = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
_PYTHON = ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "ge", "gt", "le", "lt", "getitem")
_PLAIN = ("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string", "as_strings")
_SYMBOLS = ("as_sym_int", "as_sym_bool", "as_sym_float")


def _operator(target: str) -> Any:
    """What a node calls: an `aten` operator, or Python's arithmetic on sizes; nothing else."""
    found = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", target)
    if found and found[1] not in ("save", "from_file") and hasattr(torch.ops.aten, found[1]):
        packet = getattr(torch.ops.aten, found[1])
        if found[2] in packet.overloads():
            return getattr(packet, found[2])
    if target.removeprefix("_operator.") in _PYTHON:
        return getattr(operator, target.removeprefix("_operator."))
    raise CheckpointError(
        f"the exported program calls '{target}', which is no operator of aten; save it as TorchScript"
    )


def _argument(given: dict[str, Any], values: dict[str, Any]) -> Any:
    (kind, held), *_ = given.items()
    if kind in _PLAIN:
        return held
    if kind == "as_none":
        return None
    if kind in ("as_tensor", "as_name"):
        return values[held["name"] if kind == "as_tensor" else held]
    if kind == "as_tensors":
        return [values[tensor["name"]] for tensor in held]
    if kind in ("as_optional_tensor", *_SYMBOLS):
        return _argument(held, values)
    if kind in ("as_optional_tensors", *(f"{symbol}s" for symbol in _SYMBOLS)):
        return [_argument(one, values) for one in held]
    if kind in ("as_scalar_type", "as_memory_format"):
        return (_DTYPES if kind == "as_scalar_type" else _MEMORY)[held]
    if kind in ("as_device", "as_layout"):
        return torch.device("cpu") if kind == "as_device" else torch.strided
    raise CheckpointError(f"the exported program gives an operator {kind}; save it as TorchScript")


def _assign(output: dict[str, Any], value: Any, values: dict[str, Any]) -> None:
    (kind, held), *_ = output.items()
    if kind == "as_tensors":
        values.update(zip((tensor["name"] for tensor in held), value, strict=True))
    elif kind == "as_tensor" or "as_name" in held:
        values[held["name"] if kind == "as_tensor" else held["as_name"]] = value


def _stored(archive: zipfile.ZipFile, files: dict[str, str], which: str) -> dict[str, Tensor]:
    """The tensors of one folder of the archive, from their bare bytes."""
    found = {}
    config = json.loads(archive.read(files[f"data/{which}/model_{which}_config.json"]))["config"]
    for name, payload in config.items():
        meta = payload["tensor_meta"]
        if payload["use_pickle"] or meta is None:
            raise CheckpointError(f"'{name}' is pickled and could run code; export a net of plain tensors")
        sizes, strides = ([size["as_int"] for size in meta[of]] for of in ("sizes", "strides"))
        content = bytearray(archive.read(files[f"data/{which}/{payload['path_name']}"]))
        dtype = _DTYPES[meta["dtype"]]
        flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        found[name] = flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"])
    return found


def row_by_row(images: Tensor) -> Tensor:
    """Row by row in memory, as the net was traced: a `view` of it fails on the channels-last batch of an attack."""
    return images.clone(memory_format=torch.contiguous_format)
