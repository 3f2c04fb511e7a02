"""A model's folder: its path, writing it, and identification of its weights."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.distil.interface.catalogue import FolderModel, Model
from stages.distil.interface.errors import UserError, one_line
from stages.distil.interface.paths import locate_folder
from stages.distil.storage.content import content, file_digest

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


MODELS = Path("models")
STUDENT = MODELS / "student"  # what `train` writes
ADAPTER = MODELS / "adapter"  # what `finetune` writes
RELEASE = MODELS / "release"  # the student with its card


def model_folder(name: str) -> Path:
    """Return the folder of a fetched model."""
    return MODELS / name


def count_parameters(folder: Path) -> int:
    """Return the number of a model's parameters; 0 for a teacher without weights.

    They are the architecture's, however the folder stores them: in 4 bits, or twice.
    """
    if not (folder / "config.json").is_file():
        return 0
    from stages.distil.weights.architecture import model_without_weights  # takes seconds

    return model_without_weights(folder, "bfloat16").num_parameters()


def save_model(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> None:
    """Write a Hugging Face folder whose bytes depend on model and tokenizer alone."""
    for key in ("is_local", "local_files_only"):  # these depend on how this process loaded it
        tokenizer.init_kwargs.pop(key, None)
    with explain_write_errors(folder, "run again"):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def explain_write_errors(path: Path, advice: str) -> Iterator[None]:
    """Turn errors of libraries that cannot write a file into a `UserError`.

    torch raises a RuntimeError, safetensors and tokenizers (in Rust) exceptions of their own.
    """
    try:
        yield
    except Exception as error:
        text = str(error)
        if not (
            isinstance(error, OSError) or "(os error " in text or "PytorchStreamWriter" in text
        ):
            raise
        raise UserError(
            f"{path}: cannot be written ({one_line(error)}); free disk space, or see who may write "
            f"there, then {advice}"
        ) from error


def model_content(source: Model) -> dict[str, str]:
    """Return the digests of a local folder's files; other sources are known by their entry.

    Raises `UserError` if the folder is missing.
    """
    if not isinstance(source, FolderModel):
        return {}
    folder = locate_folder(source.path, "models.*.path")
    return content(folder, (file for file in sorted(folder.iterdir()) if file.is_file()))


PROMPTING = {"chat_template_kwargs", "max_completion_tokens"}  # of an entry; not its weights


def fingerprint(source: Model, folder: Path) -> Any:
    """Return a JSON value that identifies weights: a catalogue entry or a local folder's digest."""
    return (
        digest(folder)
        if isinstance(source, FolderModel)
        else source.model_dump(mode="json", exclude_defaults=True, exclude=PROMPTING)
    )


def digest(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of a folder's files."""
    sha256 = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file():
            sha256.update(f"{file.name}\0".encode() + bytes.fromhex(file_digest(file)))
    return sha256.hexdigest()
