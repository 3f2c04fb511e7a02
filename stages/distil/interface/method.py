"""The knobs of the method, one class a block of params.yaml."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stages.distil.interface.settings import Count, Name, Settings
from stages.distil.interface.vllm_arguments import engine_arguments

# Of a rationale; `language.quality` says what each means.
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
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Tokens = Count | Literal["auto"]  # of a pass; auto: as many as suit the device and its memory
Precision = Literal["auto", "bfloat16", "float32"]  # auto: what the machine multiplies in hardware


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
    steps: Count = Field(16, description="of integrated_gradients and gradient_shap")
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
