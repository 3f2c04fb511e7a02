"""Check a model's folder before anything is computed with it: its files come from strangers.

`check_files` reads the configuration and the headers of the weights, in milliseconds and without
torch. What takes an architecture to see is in `architecture`.
"""

import json
import os
import re
from collections.abc import Iterator
from math import isnan
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from stages.distil.interface.errors import UserError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of the weights in several files, called shards
GENERATION = "generation_config.json"
SETTINGS = (GENERATION, "tokenizer_config.json", "special_tokens_map.json")
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
TEXTS = ["*.json", "*.model", "*.txt", "*.jinja"]
MODEL_FILES = [*TEXTS, "*.safetensors"]
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
MOST_BYTES = 1 << 26  # of a JSON file read here; the largest known index has 9 MB
# Numbers of a configuration with these words in their names make libraries build as many modules
# or entries: as many as there are tensors, or this many.
COUNTS = ("layer", "expert", "label")
FREE_COUNT = 1024
SIZE = re.compile("size|dim|theta|scal")  # of a layer or an expert: no count
MOST_POSITIONS = 1 << 27  # some models compute a table of them; the longest known has 10 million
# Settings by which a configuration makes transformers read other files, or load code by name.
ELSEWHERE = ("transformers_weights", "attn_implementation", "experts_implementation")
MODELOPT = "hf_quant_config.json"  # NVIDIA's; vLLM reads it
QUANTISATION = ("quantization_config", "compression_config", "quantization")

Header = dict[str, tuple[str, list[int]]]  # of the weights: tensor, its type and its shape


def check_files(folder: Path) -> Header:
    """Check the files of a model in the Hugging Face format; return the header of its weights.

    Raises `UserError` for a text pointer of git-lfs, a damaged or cut-off file, a missing shard,
    pickled weights, an adapter in place of a model, or an absurd configuration.
    """
    for name in ADAPTER_FILES:
        if (folder / name).exists():
            raise UserError(
                f"{folder / name}: an adapter (LoRA) beside or instead of a model; merge it into "
                "its base first (peft: `merge_and_unload`, then `save_pretrained`), or remove it "
                "if it is merged"
            )
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: no {CONFIG}, so no model in the Hugging Face format")
    for file in model_files(folder):
        _check_content(file)
    if not weight_files(folder):
        raise UserError(
            f"{folder}: no safetensors weights; pickled weights are not read; convert them or "
            "choose another revision"
        )
    config = read_config(folder)
    _check_tokens(config, folder / CONFIG)
    for name in SETTINGS:
        if (folder / name).is_file():
            settings = read_mapping(folder / name)
            if name == GENERATION:
                _check_tokens(settings, folder / name)
    header = read_header(folder)
    _check_numbers(config, max(len(header), FREE_COUNT), folder / CONFIG)
    return header


def check_own_files(folder: Path) -> None:
    """Check the files of a model in `models/`, which a stage has written."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: no model there; `dvc repro` makes it")
    check_files(folder)


def model_files(folder: Path) -> list[Path]:
    """Return the files of a model that are read: texts of its folder, and one copy of the weights.

    Other safetensors files beside it, such as the authors' own format, are further copies.
    """
    texts = {file for pattern in TEXTS for file in folder.glob(pattern)}
    return sorted(texts) + weight_files(folder)


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights, as transformers chooses them; none in other folders.

    Raises `UserError` if there are two copies, or an index lists a file that is not there.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if index.is_file():
        shards = sorted(set(_read_index(index).values()))
        if single.is_file() and shards != [WEIGHTS]:
            raise UserError(
                f"{folder}: two copies of the weights, {WEIGHTS} and the files that {INDEX} "
                "lists; remove one of them"
            )
        for shard in shards:
            if not (folder / shard).is_file():
                raise UserError(f"{index}: lists {shard}, which is missing; copy the folder again")
        return [folder / shard for shard in shards]
    if single.is_file() or not any(folder.glob("*.safetensors")):
        return [single] if single.is_file() else []
    other = min(folder.glob("*.safetensors")).name
    raise UserError(
        f"{folder}: neither {WEIGHTS} nor {INDEX}, so {other} cannot be read; copy the folder "
        "again, or save the model with `save_pretrained`"
    )


def check_links(folder: Path) -> None:
    """Raise `UserError` if a file of a model is a link to outside its folder."""
    home = folder.resolve()
    homes = [home]
    if home.parent.name == "snapshots":  # the hub's cache links to files beside its snapshots
        homes.append(home.parent.parent / "blobs")
    for file in sorted(file for pattern in MODEL_FILES for file in folder.glob(pattern)):
        path = Path(os.path.realpath(file))  # which takes a link to itself
        if not any(path.is_relative_to(allowed) for allowed in homes):
            raise UserError(
                f"{file}: a link to {path}, outside the model's folder; put the file itself there"
            )


def _check_content(file: Path) -> None:
    """Raise `UserError` if this is no regular file, or stands for one that did not arrive."""
    if not file.is_file():
        raise UserError(f"{file}: not a regular file, or a link to nowhere; remove it")
    with file.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(
                f"{file}: a text pointer of git-lfs in place of the file; run `git lfs pull` in "
                "that repository"
            )


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model's configuration as plain values."""
    config = read_mapping(folder / CONFIG)
    for name in ELSEWHERE:
        if isinstance(value := config.get(name), str) and ("/" in value or name == ELSEWHERE[0]):
            raise UserError(
                f"{folder / CONFIG}: {name} is {value!r}, which lies outside the model; remove it"
            )
    return config


def quantisation(folder: Path) -> str | None:
    """Return how a folder's weights are quantised, such as `awq`; None if they are not.

    Raises `UserError` if the configuration does not say.
    """
    config = read_config(folder)
    settings = next((config[key] for key in QUANTISATION if config.get(key)), None)
    if settings is None:
        return "modelopt" if (folder / MODELOPT).is_file() else None
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if not isinstance(method, str):
        raise UserError(
            f"{folder / CONFIG}: the weights are quantised, and no quant_method says how, as in "
            "MLX's format; choose the model that they were made from"
        )
    return method


def refuse_quantised(folder: Path, use: str) -> None:
    """Raise `UserError` if weights are quantised; `use` is what computes with them."""
    if (folder / CONFIG).is_file() and (method := quantisation(folder)):
        raise UserError(
            f"{folder}: its weights are quantised ({method}), and {use} needs them in floating "
            "point; choose the model that they were made from, or one that is not quantised"
        )


def read_header(folder: Path) -> Header:
    """Return the tensors of a folder's weights; raise `UserError` if a file is damaged."""
    header: Header = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="np") as stream:
                for name in stream.keys():
                    if name in header:
                        raise UserError(f"{file}: {name} is in another shard too; copy it again")
                    tensor = stream.get_slice(name)
                    header[name] = (tensor.get_dtype(), tensor.get_shape())
        except SafetensorError as error:
            raise UserError(
                f"{file}: damaged or cut off ({error}); fetch or train the model again"
            ) from error
    index = folder / INDEX
    if index.is_file() and (missing := sorted(_read_index(index).keys() - header.keys())):
        raise UserError(f"{index}: lists {missing[0]}, which no shard holds; copy the folder again")
    return header


def _read_index(file: Path) -> dict[str, str]:
    """Return the shard of each tensor."""
    shards = read_mapping(file).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UserError(f"{file}: no weight_map, which names the file of each tensor")
    for shard in shards.values():
        if not isinstance(shard, str) or Path(shard).name != shard or shard.startswith("."):
            raise UserError(f"{file}: {shard!r} is not the name of a file beside it")
    return shards


def read_mapping(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds a mapping, up to MOST_BYTES."""
    with file.open("rb") as stream:
        text = stream.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise UserError(f"{file}: larger than {MOST_BYTES:,} bytes")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: no valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected a mapping, found {type(values).__name__}")
    return values


def _check_numbers(config: dict[str, Any], most: int, file: Path) -> None:
    """Raise `UserError` for a number that no model has, or that `most` modules would exceed."""
    for name, value in _numbers(config):
        counted = any(word in name for word in COUNTS) and not SIZE.search(name) and value > most
        position = "position" in name and value > MOST_POSITIONS
        empty = name in ("max_position_embeddings", "n_positions") and value < 1
        if counted or position or empty or isnan(value):
            raise UserError(f"{file}: {name} is {value:,}, which does not fit these weights")


def _check_tokens(settings: dict[str, Any], file: Path) -> None:
    """Raise `UserError` unless the special tokens are numbers."""
    for name in TOKENS:
        value = settings.get(name)
        for token in value if isinstance(value, list) else [value]:
            if token is not None and not isinstance(token, int):
                raise UserError(f"{file}: {name}: expected the number of a token, found {token!r}")


def _numbers(values: Any, name: str = "") -> Iterator[tuple[str, int | float]]:
    """Yield each number of nested JSON values with the key that it stands under."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _numbers(value, key)
    elif isinstance(values, list):
        for value in values:
            yield from _numbers(value, name)
    elif isinstance(values, int | float) and not isinstance(values, bool):
        yield name, values
