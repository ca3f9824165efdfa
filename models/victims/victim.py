"""Any torch classifier as a victim: a checkpoint of dxray, a `torch.export` or TorchScript file, a Hugging Face folder.

All become one pair: a net that takes [0, 1] pixels and gives logits, and a `ModelCard` whose `net` is the format.
A TorchScript file does not say what images it takes: a side file of its name (`net.json` beside `net.pt`) says it,
{"classes": ["male", "female"], "channels": 1, "size": [48, 48]}. What the side file leaves out is found by trying, and
refused where more than one answer is possible. A net that wants other pixels than those in [0, 1] has `mean` and `std`
there too, a number or one for each channel, and `"channel_order": "bgr"`.
"""

import io
import json
import re
import warnings
import zipfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from dxray.models.versions import versions
from dxray.models.victims import checkpoint
from dxray.models.victims.checkpoint import CARD, WEIGHTS, CheckpointError, Defend, ModelCard
from dxray.models.victims.pixels import Preprocessed, of_preprocessor, of_side_file
from dxray.models.victims.torch_export import Exported, row_by_row

FORMAT = "dxray victim 1"
PAYLOADS = {"torch.export": "model.pt2", "torchscript": "model.torchscript", "huggingface": WEIGHTS}
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
TRIED_SIZES = (28, 32, 48, 64, 96, 112, 128, 160, 224, 256, 299, 384)


def load_victim(path: Path | str, *, defend: Defend | None = None) -> tuple[nn.Module, ModelCard]:
    """The net (on the CPU, in eval mode; pixels in [0, 1] to logits) and its card.

    Args:
        path: what `checkpoint.load` takes, a file of `torch.export.save` or TorchScript, the folder of a Hugging Face
            image classifier, or the `model` folder of a run.
        defend: as `checkpoint.load` takes it.

    Raises:
        CheckpointError: it is missing, damaged, pickled, or does not say what it takes.
    """
    return restore(*read(path), defend=defend)


def read(path: Path | str) -> tuple[bytes, bytes]:
    """Card and payload of any victim, as `restore` takes them: what a run keeps, and sends to other processes."""
    path = Path(path).expanduser()
    folder = path if path.is_dir() else path.parent
    if path.name in (CARD, *PAYLOADS.values(), folder.name) and _is_victim(folder / CARD):
        card_bytes = _bytes(folder / CARD)
        return card_bytes, _bytes(folder / payload_name(card_bytes))
    if path.is_dir() and (path / CONFIG).is_file() and not (path / CARD).is_file():
        payload = _bytes(path / WEIGHTS) if (path / WEIGHTS).is_file() else None
        if payload is None:
            raise CheckpointError(
                f"{path} has no {WEIGHTS}, and pickled weights are never read; save the net again by save_pretrained"
            )
        return _described("huggingface", payload, path.name, _hugging_face_parameters(path), {})
    if path.is_file() and path.name not in (CARD, WEIGHTS):
        payload = _bytes(path)
        said, arithmetic = _side_file(path)
        return _described(_kind(payload, path.name), payload, path.name, arithmetic, said)
    return checkpoint.read(path)


def restore(card_bytes: bytes, payload: bytes, *, defend: Defend | None = None) -> tuple[nn.Module, ModelCard]:
    """As `load_victim`, from what `read` gave."""
    card = _parse(card_bytes)
    if card is None:
        return checkpoint.restore(card_bytes, payload, defend=defend)
    if card.fingerprint(payload) != card.sha256:
        raise CheckpointError(f"{PAYLOADS[card.net]} is not the file that {CARD} was written for; copy both again")
    net = _built(card.net, payload, card.parameters, "the net")
    if not card.defence:
        return net, card
    if defend is None:
        raise CheckpointError(f"it is behind the defence '{card.defence['name']}'; load it by dxray.defenses.victim")
    return defend(net, card.defence["name"], **card.defence["parameters"]), card


def behind(card_bytes: bytes, payload: bytes, defence: dict[str, Any], defend: Defend) -> tuple[bytes, bytes]:
    """Card and payload of the net that these hold behind a defence, `name` and `parameters`, as `restore` takes them.

    Raises:
        CheckpointError: as `restore`, or it is behind a defence already.
        ValueError: the net is none that this defence can defend.
    """
    net, card = restore(card_bytes, payload, defend=defend)
    if card.defence:
        raise CheckpointError(f"the net is behind '{card.defence['name']}' already, and takes no second defence")
    card.defence = defence
    net = defend(net, defence["name"], **defence["parameters"])
    if card.net not in PAYLOADS:
        return checkpoint.packed(net, card)[1:]
    card.sha256 = card.fingerprint(payload)
    return _written(card), payload


def payload_name(card_bytes: bytes) -> str:
    """What the file beside this card is called."""
    card = _parse(card_bytes)
    return WEIGHTS if card is None else PAYLOADS[card.net]


class _TorchScript(nn.Module):
    """The scripted net is held out of torch's sight: its mode and its weights stay as they were loaded."""

    def __init__(self, payload: bytes) -> None:
        super().__init__()
        with warnings.catch_warnings():
            # PyTorch asks for torch.export in new files; those of others are already written.
            warnings.simplefilter("ignore", DeprecationWarning)
            script = torch.jit.load(io.BytesIO(payload), map_location="cpu").eval()
        for weight in script.parameters():
            weight.requires_grad_(False)
        self._script = (script,)

    def forward(self, images: Tensor) -> Tensor:
        # Unoptimised: the first looks would be profiled and the later ones fused, and so rounded otherwise.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # public, but not in __all__
            return self._script[0](row_by_row(images))


class _HuggingFace(nn.Module):
    """A classifier of transformers, its logits alone."""

    def __init__(self, payload: bytes, config: dict[str, Any]) -> None:
        super().__init__()
        try:
            import transformers
        except ImportError:
            raise CheckpointError("a Hugging Face classifier needs transformers: pip install 'dxray[hf]'") from None
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        # Weights by safetensors, classes by the installed library: no code of the folder runs, nothing is downloaded.
        with TemporaryDirectory() as folder:
            (Path(folder) / CONFIG).write_text(json.dumps(config))
            (Path(folder) / WEIGHTS).write_bytes(payload)
            self.net, report = transformers.AutoModelForImageClassification.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                attn_implementation="eager",  # a name given by the file could fetch a kernel
                output_loading_info=True,
            )
        absent = [*report["missing_keys"], *report["mismatched_keys"]]
        if absent:  # transformers draws these at random, and says so in a log that nobody reads
            raise CheckpointError(f"{WEIGHTS} lacks {len(absent)} tensors of this classifier, such as {absent[0]}")

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.net(pixel_values=pixels).logits
        return logits


def _built(kind: str, payload: bytes, parameters: dict[str, Any], name: str) -> nn.Module:
    try:
        net = _bare(kind, payload, parameters).eval()
    except CheckpointError as wrong:
        raise CheckpointError(f"{name}: {wrong}") from None
    except Exception as wrong:  # whatever a foreign file makes its reader say
        raise CheckpointError(f"{name} is damaged or of an unknown kind ({_line(wrong)}); save it again") from None
    arithmetic = {which: value for which, value in parameters.items() if which != "config"}
    return Preprocessed(net, **arithmetic).eval() if arithmetic else net


def _bare(kind: str, payload: bytes, parameters: dict[str, Any]) -> nn.Module:
    if kind == "torchscript":
        return _TorchScript(payload)
    if kind == "torch.export":
        return Exported(payload)
    return _HuggingFace(payload, parameters["config"]).requires_grad_(False)


def _described(
    kind: str, payload: bytes, name: str, parameters: dict[str, Any], said: dict[str, Any]
) -> tuple[bytes, bytes]:
    """The card of a victim, from what its file says, what its side file says, and what one look at it shows."""
    net = _built(kind, payload, parameters, name)
    bare = net.net if isinstance(net, Preprocessed) else net
    if isinstance(bare, Exported):
        shape = _agreed(bare.shape, said, name)
    elif isinstance(bare, _HuggingFace):
        config: Any = bare.net.config
        shape = (config.num_channels, *_size(config.image_size))
        said = {"classes": [text for _, text in sorted(config.id2label.items())]}
    else:
        shape = _agreed((None, None, None), said, name)
    if None in shape:
        shape = _tried(net, shape, name)
    count = _classes(net, shape, name)
    named = _unique(said.get("classes", [f"class {i}" for i in range(count)]))
    if len(named) != count:
        raise CheckpointError(f"{name} tells {count} classes apart, but {len(named)} names were given; name each one")
    card = ModelCard(kind, parameters, named, shape[0], (shape[1], shape[2]), versions=versions())
    card.sha256 = card.fingerprint(payload)
    return _written(card), payload


def _written(card: ModelCard) -> bytes:
    return (json.dumps({"format": FORMAT, **asdict(card)}, indent=2) + "\n").encode()


def _agreed(held: tuple[Any, ...], said: dict[str, Any], name: str) -> tuple[Any, ...]:
    """(channels, height, width) of the file and of its side file; None where neither says it."""
    asked = (said.get("channels"), *(_size(said["size"]) if "size" in said else (None, None)))
    if any(own is not None and other is not None and own != other for own, other in zip(held, asked, strict=True)):
        raise CheckpointError(f"{name} takes images of {held}, but its side file says {asked}; correct the side file")
    return tuple(other if own is None else own for own, other in zip(held, asked, strict=True))


def _tried(net: nn.Module, shape: tuple[Any, ...], name: str) -> tuple[int, int, int]:
    """The only shape of images that the net takes, of those worth trying."""
    channels = (1, 3) if shape[0] is None else (shape[0],)
    sizes = [(side, side) for side in TRIED_SIZES] if None in shape[1:] else [shape[1:]]
    fit = [(c, *size) for c in channels for size in sizes if _answers(net, (c, *size))]
    if len(fit) != 1:
        found = "images of many forms" if fit else "no image of the forms that were tried"
        raise CheckpointError(
            f"{name} takes {found}, so which were meant is unknown; write a side file {Path(name).stem}.json: "
            '{"classes": ["male", "female"], "channels": 1, "size": [48, 48]}'
        )
    return fit[0]


def _answers(net: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        with torch.no_grad():
            return net(torch.full((2, *shape), 0.5)).dim() == 2
    except Exception:  # a net says in many ways that an image does not fit
        return False


def _classes(net: nn.Module, shape: tuple[int, ...], name: str) -> int:
    """How many classes the net tells apart; CheckpointError unless a batch of any size gives logits."""
    for batch in (1, 3):
        try:
            with torch.no_grad():
                logits = net(torch.full((batch, *shape), 0.5))
        except Exception as wrong:
            raise CheckpointError(
                f"{name} fails on {batch} images of {shape} ({_line(wrong)}); "
                "correct the side file, or save the net with a free batch dimension"
            ) from None
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != batch:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise CheckpointError(
                f"{name} gives {got} for {batch} images, expected logits ({batch}, classes); "
                "save a net that returns logits alone, with a free batch dimension"
            )
    return max(2, logits.shape[1])


def _kind(payload: bytes, name: str) -> str:
    """CheckpointError for all that is pickled; a file is known by what it holds, not by its ending.

    TorchScript's archives hold `.pkl` records, but no Python pickle reads them: PyTorch's own reader in C++ makes
    tensors, numbers and the classes defined in the archive, whose code its interpreter runs. That code reaches no
    Python, but the operators `save` and `from_file` do reach files; hence they are refused. PyTorch gives no promise
    beyond that: a file from a stranger is best attacked in a container.
    """
    never = "pickled files are never read, for they can run code; save it by torch.export.save or TorchScript"
    keras = f"{name} is a Keras model, which is not read; load it with KERAS_BACKEND=torch, then torch.export.save it"
    if payload.startswith(b"\x89HDF\r\n"):  # .h5, as Keras wrote before
        raise CheckpointError(keras)
    try:
        archive = zipfile.ZipFile(io.BytesIO(payload))
    except zipfile.BadZipFile:
        raise CheckpointError(f"{name} is neither checkpoint, torch.export file nor TorchScript; {never}") from None
    with archive:
        names = archive.namelist()
        inner = {held.split("/", 1)[-1] for held in names}
        if len(set(names)) != len(names):
            raise CheckpointError(f"{name} holds two records of one name and is read by no one alike; save it again")
        if "models/model.json" in inner:
            return "torch.export"
        if "serialized_exported_program.json" in inner:
            raise CheckpointError(f"{name} was exported by a PyTorch older than 2.8, with pickled weights; {never}")
        if {"config.json", "model.weights.h5"} <= inner:
            raise CheckpointError(keras)
        if not any(held.endswith(".pkl") for held in inner):
            raise CheckpointError(f"{name} is a zip file that holds no net; save one by torch.export.save")
        if "constants.pkl" not in inner or not any(held.startswith("code/") for held in inner):
            raise CheckpointError(f"{name} is pickled; {never}")
        code = b"\n".join(archive.read(held) for held in names if held.endswith(".py"))
    if re.search(rb"\b(save|from_file)\s*\(", code):
        raise CheckpointError(f"{name} reads or writes files when it runs; save a net that only computes")
    return "torchscript"


_SIDE = {"classes", "channels", "size", "mean", "std", "channel_order"}


def _side_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the side file says, and of this the arguments of `Preprocessed`; nothing where there is none."""
    side = path.with_suffix(".json")
    if not side.is_file():
        return {}, {}
    said = _json(side)
    if set(said) - _SIDE:
        raise CheckpointError(f"{side} holds {sorted(set(said) - _SIDE)}; a side file has only {sorted(_SIDE)}")
    well = isinstance(said.get("classes", []), list) and said.get("channels", 1) in (1, 3)
    if not well or not re.fullmatch(r"\d+|\[\d+, \d+\]", json.dumps(said.get("size", 1))):
        raise CheckpointError(
            f'{side} is not as expected: {{"classes": ["male", "female"], "channels": 1, "size": [48, 48]}}'
        )
    try:
        arithmetic = of_side_file(said)
    except ValueError as wrong:
        raise CheckpointError(
            f'{side} has a "mean", "std" or "channel_order" that cannot be used ({wrong}); expected numbers, one for '
            'each channel or for all, as "mean": 0.5, "std": 0.5 for pixels in [-1, 1]; the order is "rgb" or "bgr"'
        ) from None
    coloured = arithmetic and (arithmetic["bgr"] or len(arithmetic["scale"]) > 1)
    if coloured and said.setdefault("channels", 3) != 3:
        raise CheckpointError(f"{side} speaks of three channels, and says that there is one; correct it")
    return said, arithmetic


def _hugging_face_parameters(folder: Path) -> dict[str, Any]:
    """Config and arithmetic of a classifier's folder: `pixels * scale + shift` for [0, 1] pixels."""
    config = _json(folder / CONFIG)
    if "model_type" not in config or "quantization_config" in config:
        raise CheckpointError(f"{folder / CONFIG} describes no plain classifier that transformers knows")
    if not (folder / PREPROCESSOR).is_file():
        raise CheckpointError(f"{folder} has no {PREPROCESSOR}, so how pixels are normalised is unknown; copy it too")
    steps = _json(folder / PREPROCESSOR)
    channels = config.get("num_channels", 3)
    try:
        arithmetic = of_preprocessor(steps, channels)
    except ValueError:
        raise CheckpointError(f"{folder / PREPROCESSOR} has no mean and std for each channel") from None
    if "image_size" not in config:
        side = steps.get("crop_size") or steps.get("size") or 224
        if isinstance(side, dict):
            edge = side.get("shortest_edge")
            side = [side.get("height", edge), side.get("width", edge)]
        if not (isinstance(side, int) or (isinstance(side, list) and all(isinstance(length, int) for length in side))):
            raise CheckpointError(f"{folder / PREPROCESSOR} has no size of images, a height and a width in pixels")
        config["image_size"] = side
    return {"config": config, **arithmetic}


def _is_victim(path: Path) -> bool:
    return path.is_file() and _json(path).get("format") == FORMAT


def _parse(card_bytes: bytes) -> ModelCard | None:
    """The card of a victim; None where it is a checkpoint's, or none at all, which `checkpoint.restore` says."""
    try:
        held = json.loads(card_bytes)
        if not isinstance(held, dict) or held.pop("format", None) != FORMAT:
            return None
        card = ModelCard(**held | {"classes": tuple(held["classes"]), "size": tuple(held["size"])})
    except (ValueError, KeyError, TypeError) as wrong:
        if isinstance(wrong, json.JSONDecodeError | UnicodeDecodeError):
            return None
        raise CheckpointError(f"{CARD} is damaged ({_line(wrong)}); copy it again") from None
    if card.net not in PAYLOADS:
        raise CheckpointError(f"{CARD} is of the format '{card.net}'; known are: {', '.join(PAYLOADS)}")
    return card


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as wrong:
        raise CheckpointError(f"{path} cannot be read ({wrong.strerror}); copy it again") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(_bytes(path))
    except ValueError as wrong:
        raise CheckpointError(f"{path} is no JSON ({_line(wrong)}); write it again") from None
    if not isinstance(held, dict):
        raise CheckpointError(f"{path} holds no JSON object; write it again")
    return held


def _size(side: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def _unique(names: list[Any]) -> tuple[str, ...]:
    """ImageNet calls two classes 'crane': such a name gets its index."""
    often = Counter(map(str, names))
    return tuple(f"{name} ({i})" if often[str(name)] > 1 else str(name) for i, name in enumerate(names))


def _line(wrong: Exception) -> str:
    return " ".join(str(wrong).split())[:160] or type(wrong).__name__
