"""Compare a model's folder with its architecture, as transformers knows it.

Weights that are missing or shaped differently would otherwise be random, without a word. Nothing
here reads or allocates weights, except `check_finite`.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from stages.distil.interface.errors import UserError
from stages.distil.weights.checking import (
    CONFIG,
    GENERATION,
    TOKENS,
    Header,
    check_files,
    check_own_files,
    quantisation,
    read_mapping,
    weight_files,
)

LONGEST_NAME = 200  # in a message
UNLIMITED = 10**9  # a tokenizer without a limit declares a larger number of tokens
FLOATS = ("F64", "F32", "F16", "BF16")  # types of weights that are not quantised
# How methods of quantisation name a packed matrix, and its own name.
PACKED = {".qweight": ".weight", ".weight_packed": ".weight", "_blocks": ""}


def check_model(folder: Path) -> None:
    """Check all of a model's folder: files, architecture, tokenizer, and that weights are finite.

    It reads the weights once and holds one tensor at a time. Raises `UserError`.
    """
    header = check_files(folder)
    model = model_without_weights(folder, "bfloat16")
    check_names(model, header, folder)
    check_tokenizer(load_tokenizer(folder), model, folder)
    check_finite(_stored_tensors(folder), folder)


@contextmanager
def explain_unreadable(what: str) -> Iterator[None]:
    """Turn whatever a library raises while it reads a stranger's file into one line."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the system's, such as a permission that is missing
        reason = shorten(str(error), 300) or "no reason given"
        if "trust_remote_code" in str(error):
            reason = "it needs code of its own, and code that comes with a model is never run"
        raise UserError(f"{what} cannot be read ({type(error).__name__}: {reason})") from error


def load_config(folder: Path) -> PreTrainedConfig:
    """Load the configuration of a model's folder, after a check of its files."""
    check_own_files(folder)  # absurd numbers would take all memory here
    with explain_unreadable(f"{folder / CONFIG}"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model's folder, after a check of its files."""
    check_own_files(folder)  # transformers reads the configuration for it too
    with explain_unreadable(f"{folder}: its tokenizer"):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def auto_class(config: PreTrainedConfig) -> type[AutoModelForCausalLM | AutoModelForSeq2SeqLM]:
    """Return the class that loads models of this kind."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def model_without_weights(folder: Path, dtype: str) -> PreTrainedModel:
    """Return a model that has the shape of the folder's, and no weights."""
    config = load_config(folder)
    kind = auto_class(config)
    if kind is AutoModelForCausalLM and type(config) not in kind._model_mapping:
        if type(config) in AutoModelForImageTextToText._model_mapping:
            kind = AutoModelForImageTextToText  # a teacher that also sees, which vLLM runs
    with explain_unreadable(f"{folder / CONFIG}"), torch.device("meta"):
        return kind.from_config(config, dtype=dtype, trust_remote_code=False)


def check_names(model: PreTrainedModel, header: Header, folder: Path) -> None:
    """Raise `UserError` unless the weights are those of the architecture, in names and shapes.

    transformers itself decides, as in loading: it knows tied weights, buffers that may be missing,
    and names of earlier versions.
    """
    quantised = quantisation(folder)
    config = model.config
    if quantised:
        config = type(config).from_dict(
            {k: v for k, v in config.to_dict().items() if k != "quantization_config"}
        )
    weights = {
        _unpacked(name) if quantised else name: torch.empty(shape, device="meta")
        for name, (_, shape) in header.items()
    }
    with explain_unreadable(f"{folder}: its weights"), _quiet():
        _, report = type(model).from_pretrained(
            None,
            config=config,
            state_dict=weights,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    check_report(report, model, folder, quantised is not None)
    names = {name for name, _ in model.named_parameters()}
    for name, (kind, _) in header.items():
        if not quantised and name in names and kind not in FLOATS:
            raise UserError(
                f"{folder}: {name} has the type {kind}, and {CONFIG} does not say how it is "
                "quantised; copy or download the folder again"
            )


def _unpacked(name: str) -> str:
    for packed, plain in PACKED.items():
        if name.endswith(packed):
            return name.removesuffix(packed) + plain
    return name


def check_report(
    report: dict[str, Any], model: PreTrainedModel, folder: Path, quantised: bool = False
) -> None:
    """Raise `UserError` for weights that transformers did not find, or that do not fit.

    `report` is what `from_pretrained` gives with `output_loading_info`. Of quantised weights the
    shapes do not count.
    """
    kind = type(model).__name__
    unknown = sorted(report["unexpected_keys"])
    if missing := sorted(report["missing_keys"]):
        others = f"; it has {_first(unknown)}, which is not part of one" if unknown else ""
        raise UserError(
            f"{folder}: the weights lack {_first(missing)} of a {kind}{others}; copy or download "
            f"the folder again, or correct {CONFIG}"
        )
    if not quantised and (mismatched := sorted(report["mismatched_keys"])):
        _, stored, expected = mismatched[0]
        raise UserError(
            f"{folder}: {_first([name for name, *_ in mismatched])} has the shape "
            f"{_shape(stored)}, and {CONFIG} asks for {_shape(expected)}; one of the two is of "
            "another model"
        )
    if left_out := [name for name in unknown if _is_further_layer(name, model)]:
        raise UserError(
            f"{folder}: the weights hold {_first(left_out)}, a layer that {CONFIG} leaves out; one "
            "of the two is of another model"
        )


def _is_further_layer(name: str, model: PreTrainedModel) -> bool:
    """Return whether a tensor belongs to a layer after the last one that predicts a token."""
    layers, number, _ = re.split(r"\.(\d+)\.|$", name, maxsplit=1)
    every = dict(model.named_modules())
    modules = every.get(layers, every.get(f"{model.base_model_prefix}.{layers}"))
    ahead = getattr(model.config, "num_nextn_predict_layers", None) or 0
    return isinstance(modules, nn.ModuleList) and int(number) >= len(modules) + ahead


def _first(names: list[str]) -> str:
    """Return the first of a stranger's names, cut to a readable length, and how many follow."""
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return names[0][:LONGEST_NAME] + more


def _shape(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' own report and progress bar off the terminal."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, folder: Path
) -> None:
    """Raise `UserError` unless every token that a text can contain has a row of the embedding."""
    with explain_unreadable(f"{folder}: its tokenizer"):
        tokenizer.decode(tokenizer.encode("A question?"))
    rows = len(model.get_input_embeddings().weight)
    has_settings = (folder / GENERATION).is_file()  # a GGUF file has none
    for file, settings in (
        (CONFIG, model.config.get_text_config()),
        (GENERATION, generation_settings(folder) if has_settings else model.generation_config),
    ):
        for name in TOKENS:
            declared = getattr(settings, name, None)
            for token in declared if isinstance(declared, list) else [declared]:
                if isinstance(token, int) and token >= rows:
                    raise UserError(
                        f"{folder / file}: {name} is {token}, and the embedding has {rows:,} rows"
                    )
    if len(tokenizer) < rows / 2:
        raise UserError(
            f"{folder}: the tokenizer knows {len(tokenizer):,} tokens, and the embedding has "
            f"{rows:,} rows; its vocabulary (tokenizer.json) is missing, or of another model"
        )
    # An added token that no text may contain, such as an image's, needs no row.
    template = str(tokenizer.chat_template)
    unused = {
        str(added)
        for added in tokenizer.added_tokens_decoder.values()
        if added.special and str(added) not in template
    }.difference(map(str, tokenizer.special_tokens_map.values()))
    vocabulary = tokenizer.get_vocab()
    beyond = [token for token, id in vocabulary.items() if id >= rows and token not in unused]
    if beyond:
        beyond.sort(key=vocabulary.__getitem__)
        raise UserError(
            f"{folder}: the tokenizer's {_first(list(map(repr, beyond)))} has the id "
            f"{vocabulary[beyond[0]]:,}, and the embedding has {rows:,} rows; the tokenizer is of "
            "another model, or tokens were added without `resize_token_embeddings`"
        )


def generation_settings(folder: Path) -> GenerationConfig:
    """Return the settings with which a model's folder is loaded, without its weights."""
    file = folder / GENERATION
    if not file.is_file():
        return GenerationConfig.from_model_config(load_config(folder))
    with explain_unreadable(str(file)):
        return GenerationConfig.from_dict(read_mapping(file))


def check_finite(
    tensors: Iterable[tuple[str, Tensor]],
    place: Path,
    advice: str = "fetch or train the model again",
) -> None:
    """Raise `UserError` if a weight is NaN or infinite; `place` is the model's folder or file."""
    for name, tensor in tensors:
        # A norm is many times faster than comparing each number, and can only overflow.
        if not torch.linalg.vector_norm(tensor).isfinite() and not tensor.isfinite().all():
            raise UserError(f"{place}: {name} is not finite (NaN or infinite); {advice}")


def _stored_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a folder that hold floating-point numbers of 16 bits or more."""
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as stream:
            for name in stream.keys():
                if stream.get_slice(name).get_dtype() in FLOATS:
                    yield name, stream.get_tensor(name)
