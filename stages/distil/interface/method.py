"""The parameters of the method: one class for each block of params.yaml."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from stages.distil.interface.settings import (
    Count,
    Integer,
    Name,
    Number,
    Seed,
    Settings,
    matching,
)
from stages.distil.interface.vllm_arguments import SPEED_ONLY, engine_arguments

# Of a rationale; `language.quality` defines them.
STATUSES = (
    "ok",
    "empty",
    "truncated",
    "repetitive",
    "contradicts",
    "inconclusive",
    "too_long",
)
GOLD, VOTE = "gold", "vote"  # labels that are not one teacher's answers
ANSWER, SALIENCY = "answer", "saliency"  # the student's tasks that are not named after a teacher
REASONING = "rationale"  # all teachers' task, if an answer follows each rationale
Weight = Annotated[Number, Field(ge=0)]
Tokens = Count | Literal["auto"]  # per pass; auto: what suits the device and its memory
Precision = Literal["auto", "bfloat16", "float32"]  # auto: by what the hardware supports


class Data(Settings):
    """Which questions to use."""

    name: Name
    fraction: Number = Field(1.0, gt=0, le=1, description="share of the train questions")
    limit: Count | None = Field(None, description="maximum number of train questions")
    max_rejected: Number = Field(0.0, ge=0, le=1, description="largest share of bad rows to skip")
    max_characters: Count = Field(50_000, description="length of question and options")
    pool: Count = Field(32, description="train questions to draw solved examples from")
    near_copies: Literal["keep", "remove"] = Field(
        "keep", description="train questions that nearly repeat one of validation or test"
    )
    similarity: Number = Field(0.85, gt=0, le=1, description="from which questions are near copies")


class PromptFiles(Settings):
    """The prompts: Jinja files with the blocks system, user, assistant and cue."""

    rationale: Path = Field(description="with teacher forcing: explain the given answer")
    reason: Path = Field(description="without teacher forcing: reason to one's own answer")
    answer: Path = Field(description="the zero-shot question")


class Rationales(Settings):
    """How teachers write rationales."""

    teacher_forcing: bool = Field(True, description="false: teachers reason to their own answer")
    examples: Literal["none", "random", "fixed", "similar"]
    num_examples: Count
    example_rationales: Literal["data", "teacher"] = Field(
        "data", description="whose rationales the examples show; the teacher's if the data has none"
    )
    max_tokens: Count
    thinking: Literal["drop", "rationale"] = Field(
        "drop", description="what becomes of the thought before a reply, such as <think>...</think>"
    )
    temperature: Number = Field(0.0, ge=0, le=2)
    samples: Count = Field(1, description="rationales per question")
    on_bad: Literal["keep", "retry"] = "keep"
    retries: Count = Field(2, description="further attempts at a rationale that is not ok")
    retry_temperature: Number = Field(0.7, gt=0, le=2)
    context: Count = Field(8192, description="maximum tokens of prompt and text together")
    backend: Literal["auto", "vllm", "transformers"] = "auto"
    engine: dict[Name, Any] | None = Field(
        None, description="vLLM's own arguments, for all teachers or under one teacher's name"
    )
    dtype: Literal[Precision, "float16"] = Field("auto", description="precision of the teachers")
    prompts: PromptFiles

    @model_validator(mode="after")
    def _samples_differ(self) -> "Rationales":
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("several samples are identical at temperature 0; raise temperature")
        return self

    def engine_of(self, teacher: str) -> dict[str, Any]:
        """Return a teacher's vLLM arguments: the shared ones, overridden by its own."""
        if not self.engine:
            return {}
        shared = {name: v for name, v in self.engine.items() if name in engine_arguments()}
        return shared | self.engine.get(teacher, {})

    def deciding_engine(self, teacher: str) -> dict[str, Any]:
        """Return those of a teacher's vLLM arguments that its texts depend on."""
        arguments = self.engine_of(teacher)
        return {name: value for name, value in arguments.items() if name not in SPEED_ONLY}


class Finetune(Settings):
    """LoRA (Hu et al., 2022) of the saliency teacher on the train answers, before attribution."""

    epochs: Integer = Field(0, ge=0, description="0: no fine-tuning")
    learning_rate: Number = Field(2e-4, gt=0, lt=1)
    batch_size: Count = 8
    rank: Count = Field(16, description="of the LoRA matrices")


WordsOf = Literal["question", "rationale", "both"]


class Saliency(Settings):
    """How to find the words that a teacher's answer depends on."""

    teacher: Name
    of: WordsOf = Field("question", description="what is scored; the rationale is this teacher's")
    method: Literal[
        "input_x_gradient",
        "saliency",
        "integrated_gradients",
        "occlusion",
        "random",
    ] = Field("input_x_gradient", description="random is a control: scores without a meaning")
    target: Literal["gold", "prediction"] = Field("gold", description="the answer that is scored")
    only_correct: bool = Field(False, description="skip questions the teacher gets wrong")
    steps: Count = Field(16, description="for integrated_gradients")
    dtype: Precision = Field("auto", description="precision of the attribution")
    finetune: Finetune = Finetune()
    batch_tokens: Tokens = Field("auto", description="tokens per pass, including padding")
    top_k: Count
    sign: Literal["absolute", "positive"] = Field(
        "absolute", description="positive: only words that speak for the answer are chosen"
    )
    stop_words: bool = Field(True, description="false: words such as `the` are not chosen")
    options: bool = Field(True, description="false: words of the list of options are not chosen")
    weight: Weight


class SoftLabels(Settings):
    """A teacher's distribution over the options, as a target (Hinton et al., 2015)."""

    teacher: Name | None = Field(None, description="null: no soft labels")
    weight: Number = Field(1.0, gt=0, description="in the loss")
    temperature: Number = Field(1.0, gt=0, description="of both distributions")


class Assemble(Settings):
    """Which rationales and labels become training targets."""

    statuses: list[Literal["ok", "truncated", "repetitive", "contradicts", "inconclusive"]] = Field(
        min_length=1
    )
    choose: Literal["all", "best", "ratio", "shortest", "random"] = Field(
        "all",
        description="which of a question's rationales are taught: best, the most useful; ratio, "
        "those that suit the scorer; shortest; random",
    )
    per_question: Count = Field(1, description="how many are chosen, unless all are")
    scorer: Name = Field(description="model that reads the rationales, for best and ratio")
    labels: str = Field(GOLD, description="gold, vote, or the name of a teacher")

    @property
    def reads_rationales(self) -> bool:
        """Whether the scorer reads the rationales before some of them are chosen."""
        return self.choose in ("best", "ratio")

    @model_validator(mode="after")
    def _chooses(self) -> "Assemble":
        if self.choose == "all" and self.per_question > 1:
            raise ValueError("per_question has no effect if choose is all; set it to 1")
        return self


Form = Literal["branch", "after_answer", "before_answer"]
Prefix = Annotated[str, matching(r"\w[\w -]*", "a word such as predict")]


class StudentPrompt(Settings):
    """The texts around a question that the student reads."""

    options: Literal["listed", "lettered"] = Field(
        "listed", description="lettered: one a line, after (a), (b) and so on, as in the papers"
    )
    prefixes: dict[Name, Prefix] | None = Field(
        None,
        description="word before the question for answer, saliency and each teacher (or, if "
        "rationales come before the answer, `rationale` for all of them)",
    )


class Student(Settings):
    """The model to train."""

    model: Name
    prompt: StudentPrompt = StudentPrompt()
    shared_context: bool = Field(
        True, description="false: one pass per target, as in the papers, not one per question"
    )
    form: Form = Field(
        "branch",
        description="after_answer: rationales and words follow the answer, in one text; "
        "before_answer: an answer follows each rationale, so that the student can reason first",
    )
    direct: bool = Field(
        True, description="with before_answer: also teach the student to answer without reasoning"
    )
    context: Count | None = Field(None, description="maximum input tokens; null: the model's limit")
    dtype: Precision = Field("auto", description="precision of computation")
    weights: Literal["float32", "bfloat16"] = Field(
        "float32", description="precision of the weights in training; with LoRA, of the frozen ones"
    )
    lora_rank: Integer = Field(0, ge=0, description="of LoRA matrices; 0: train all weights")

    @property
    def reasons(self) -> bool:
        """Whether the student learns to reason before it answers."""
        return self.form == "before_answer"

    def teaches(self, status: str) -> bool:
        """Return whether an assembled rationale of this status is taught.

        What an answer follows must be `ok`: others may lead to another answer, or to none.
        """
        return not self.reasons or status == "ok"

    @field_validator("direct")
    @classmethod
    def _other_forms_are_direct(cls, direct: bool, given: ValidationInfo) -> bool:
        """Set it for the other forms, whose students always answer directly."""
        return direct or given.data.get("form") != "before_answer"

    @model_validator(mode="after")
    def _computes_in_its_precision(self) -> "Student":
        if self.weights == "bfloat16" and self.dtype == "float32":
            raise ValueError(
                "bfloat16 weights are trained in bfloat16; set dtype to auto or bfloat16, or "
                "weights to float32"
            )
        return self


class Train(Settings):
    """How the student is trained."""

    epochs: Annotated[Integer, Field(ge=0)] | None = Field(
        description="0: no training; null: train for max_steps"
    )
    max_steps: Count | None = Field(None, description="optimiser steps, instead of epochs")
    validation: Count | None = Field(
        None, description="validation questions asked after each epoch; null: all"
    )
    patience: Count | None = Field(None, description="epochs without a gain before training stops")
    optimizer: str = Field("adamw_torch_fused", description="by its name in transformers' Trainer")
    learning_rate: Number = Field(gt=0, lt=1)
    warmup: Number = Field(
        0.05, ge=0, lt=1, description="share of the steps over which the learning rate rises"
    )
    batch_size: Count = Field(description="questions per optimiser step, over all processes")
    batch_tokens: Tokens = Field("auto", description="tokens per pass, including padding")
    gradient_checkpointing: bool | Literal["auto"] = Field(
        "auto",
        description="keep no layer's activations and compute them twice; auto: if they do not fit",
    )
    mutual_information: Weight = Field(
        0.0, description="weight of the term between answer and rationales (Chen et al., 2024)"
    )
    reasoned_answer: Weight = Field(
        0.0, description="weight of the answers after rationales, beside that in the rationales"
    )
    seed: Seed | None = None
    accelerate: Path | None = Field(None, description="configuration for several processes")

    @model_validator(mode="after")
    def _has_one_length(self) -> "Train":
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("epochs and max_steps are both set; set one of them to null")
        if self.epochs is None and self.max_steps is None:
            raise ValueError("neither epochs nor max_steps is set; set one of them")
        return self

    def steps(self, per_epoch: int) -> int:
        """Return the optimiser steps of a training, of which an epoch has `per_epoch`."""
        return self.max_steps or per_epoch * (self.epochs or 0)


class Evaluate(Settings):
    """How the student and the teachers are evaluated."""

    max_tokens: Count
    reasoning_tokens: Count = Field(
        128, description="maximum tokens of a student's reasoning and the answer after it"
    )
    samples: Integer = Field(
        0,
        ge=0,
        description="texts that a student that reasons also draws for each test question, which "
        "vote on the answer",
    )
    temperature: Number = Field(0.7, gt=0, description="of these texts")
    teacher_questions: Count = Field(50, description="test questions that each teacher answers")
    explained: Integer = Field(
        24, ge=0, description="train questions whose key words and rationales the student writes"
    )


Address = Annotated[str, matching(r"auto|local|[^\s/]+:\d+", "auto, local, or HOST:PORT")]


class Cluster(Settings):
    """Where teachers write and words are scored. No result depends on it."""

    engine: Literal["ray"] | None = Field(None, description="null: this machine")
    address: Address = Field("auto", description="auto: a running cluster; local: started here")
    workers: Count | Literal["auto"] = Field("auto", description="copies of a model")
    gpus: Integer = Field(
        1, ge=0, description="of a copy of a teacher; 0: a copy takes the cores of a machine"
    )
    block: Count = Field(1024, description="requests handed out, and at most redone, at once")
