"""The whole of params.yaml: its blocks, and the constraints between them.

Imports neither torch nor transformers, so that a wrong parameter is reported at once.
"""

from pathlib import Path

from pydantic import model_validator

from stages.distil.interface.catalogue import (
    NO_WEIGHTS,
    DataSet,
    Files,
    Gym,
    Hub,
    Kinship,
    Model,
    ServerModel,
    determining_fields,
)
from stages.distil.interface.errors import report_errors
from stages.distil.interface.messages import how_to_replace, unknown_name
from stages.distil.interface.method import (
    ANSWER,
    GOLD,
    REASONING,
    SALIENCY,
    VOTE,
    Assemble,
    Cluster,
    Data,
    Evaluate,
    Rationales,
    Saliency,
    SoftLabels,
    Student,
    Train,
    Weight,
)
from stages.distil.interface.optimizers import check_optimizer
from stages.distil.interface.settings import Name, Seed, Settings, load_settings
from stages.distil.interface.vllm_arguments import SET_ELSEWHERE, engine_arguments

CURVES = ("soft_labels", "mutual_information", "reasoned_answer", "total", "cut")  # and counts
RESERVED = {  # names that no model may have
    **dict.fromkeys(("student", "adapter", "release"), "the pipeline writes this folder"),
    **dict.fromkeys((ANSWER, SALIENCY, REASONING, *CURVES), "the training gives it a meaning"),
    **dict.fromkeys((GOLD, VOTE), "the name is reserved for a kind of label"),
}


class Parameters(Settings):
    """All of params.yaml."""

    alpha: Weight | dict[Name, Weight]
    seed: Seed
    data: Data
    teachers: list[Name]
    rationales: Rationales
    saliency: Saliency
    soft_labels: SoftLabels = SoftLabels()
    assemble: Assemble
    student: Student
    train: Train
    evaluate: Evaluate
    cluster: Cluster = Cluster()
    models: dict[Name, Model]
    datasets: dict[Name, DataSet]

    @model_validator(mode="after")
    def _fit_together(self) -> "Parameters":
        self._check_models()
        self._check_data_set()
        self._check_teachers()
        self._check_labels()
        self._check_soft_labels()
        self._check_engine()
        self._check_identities()
        self._check_words()
        self._check_prefixes()
        self._check_form()
        self._check_optimizer()
        if self.train.mutual_information and not any(map(self.teacher_weight, self.teachers)):
            raise ValueError(
                "train.mutual_information: it needs rationales, but alpha is 0; raise alpha"
            )
        return self

    def _check_optimizer(self) -> None:
        try:
            check_optimizer(self.train.optimizer)
        except ValueError as error:
            raise ValueError(f"train.optimizer: {error}") from None

    def _check_models(self) -> None:
        """Refuse names that are not in `models`, or of which the pipeline makes something else."""
        for key, name in [
            *((f"teachers[{i}]", teacher) for i, teacher in enumerate(self.teachers)),
            ("saliency.teacher", self.saliency.teacher),
            ("assemble.scorer", self.assemble.scorer),
            ("student.model", self.student.model),
        ]:
            if name not in self.models:
                raise ValueError(f"{key}: {unknown_name(name, self.models, 'model in `models`')}")
            if not key.startswith("teachers") and self.models[name].source in NO_WEIGHTS:
                raise ValueError(
                    f"{key}: {name!r} has no weights on this machine (source "
                    f"{self.models[name].source}); choose a model from another source"
                )
        for name, reason in RESERVED.items():
            if name in self.models:
                raise ValueError(f"models.{name}: {reason}; choose another name")

    def _check_data_set(self) -> None:
        if self.data.name not in self.datasets:
            unknown = unknown_name(self.data.name, self.datasets, "data set in `datasets`")
            raise ValueError(f"data.name: {unknown}")

    def _check_teachers(self) -> None:
        """Refuse a teacher that is listed twice, and weights that are not the teachers'."""
        if len(set(self.teachers)) < len(self.teachers):
            raise ValueError("teachers: a name is listed twice; list each teacher once")
        if not isinstance(self.alpha, dict):
            return
        for name in self.alpha:
            if name not in self.teachers:
                unknown = unknown_name(name, self.teachers, "teacher")
                raise ValueError(f"alpha: {unknown}; {how_to_replace('alpha')}")
        for name in self.teachers:
            if name not in self.alpha:
                raise ValueError(f"alpha: no weight for teacher {name!r}; add one (0 turns it off)")

    def _check_identities(self) -> None:
        """Refuse two models with the same stored texts, of which one would copy the other.

        Two teachers may not be the same model. A teacher behind a server may not share the identity
        of any server elsewhere, since the texts that the other wrote would count as its own.
        """
        for teacher in self.teachers:
            model = self.models[teacher]
            for other, its in self.models.items():
                if other == teacher or not self._share_texts(teacher, other):
                    continue
                if not (isinstance(model, ServerModel) and isinstance(its, ServerModel)):
                    if other in self.teachers:
                        raise ValueError(
                            f"teachers: {teacher!r} and {other!r} are the same model with the same "
                            "settings, so that one would copy the other; remove one of them"
                        )
                elif other in self.teachers or its.url != model.url:
                    raise ValueError(
                        f"models.{other}: it shares the stored texts of {teacher!r}, since both "
                        f"entries name the model {model.model!r}; if it is another model, set "
                        f"models.{other}.identity to a name of its own, otherwise remove it (one "
                        "entry can list several url)"
                    )

    def _share_texts(self, one: str, other: str) -> bool:
        """Return whether two models have the same texts in the store."""
        fields = [determining_fields(self.models[name]) for name in (one, other)]
        if fields[0] != fields[1] or fields[0]["source"] == "provided":
            return False
        on_server = fields[0]["source"] == "server"
        settings = self.rationales
        return on_server or settings.deciding_engine(one) == settings.deciding_engine(other)

    def _check_engine(self) -> None:
        """Refuse unknown vLLM arguments, and those that other parameters set."""
        engine = self.rationales.engine
        if not engine:
            return
        arguments = engine_arguments()
        for name, value in engine.items():
            if name in arguments:
                self._check_argument(f"rationales.engine.{name}", name, arguments)
            elif name in self.models and isinstance(value, dict):
                for own in value:
                    self._check_argument(f"rationales.engine.{name}.{own}", own, arguments)
            elif name in self.models:
                raise ValueError(
                    f"rationales.engine.{name}: expected a mapping of vLLM's arguments for this "
                    f"teacher, found {value!r}"
                )
            else:
                unknown = unknown_name(name, [*arguments, *self.models], "vLLM argument or model")
                raise ValueError(f"rationales.engine: {unknown}")

    @staticmethod
    def _check_argument(key: str, name: str, arguments: list[str]) -> None:
        if name in SET_ELSEWHERE:
            raise ValueError(f"{key}: {SET_ELSEWHERE[name]}")
        if name not in arguments:
            where = key.rpartition(".")[0]
            raise ValueError(f"{where}: {unknown_name(name, arguments, 'vLLM argument')}")

    def _check_labels(self) -> None:
        labels = self.assemble.labels
        if labels == GOLD:
            return
        if labels != VOTE and labels not in self.teachers:
            kinds = [GOLD, VOTE, *self.teachers]
            raise ValueError(f"assemble.labels: {unknown_name(labels, kinds, 'kind of label')}")
        if self.rationales.teacher_forcing:
            raise ValueError(
                f"assemble.labels: {labels!r} needs the teachers' own answers; set "
                "rationales.teacher_forcing to false"
            )
        labellers = self.teachers if labels == VOTE else [labels]
        if all(self.models[name].source == "provided" for name in labellers):
            raise ValueError(
                f"assemble.labels: {labels!r}: provided rationales have no answers of the "
                "teacher's own; choose a teacher that writes, or gold"
            )
        self._check_gold_answers()

    def _check_gold_answers(self) -> None:
        """Refuse what reads the gold answers of train questions, where others are taught."""
        saliency, or_no_words = self.saliency, ", or saliency.weight to 0"
        for key, reads, instead in [
            ("saliency.target", saliency.weight and saliency.target == GOLD, "prediction"),
            ("saliency.only_correct", saliency.weight and saliency.only_correct, "false"),
            ("saliency.finetune.epochs", saliency.weight and saliency.finetune.epochs, "0"),
            ("assemble.choose", self.assemble.choose == "best", "all"),
        ]:
            if reads:
                raise ValueError(
                    f"{key}: it reads the gold answers, which a method with assemble.labels "
                    f"{self.assemble.labels!r} must not see; set it to {instead}"
                    + (or_no_words if key.startswith("saliency") else "")
                )

    def _check_words(self) -> None:
        """Refuse to teach words of rationales that nobody writes."""
        name, of = self.saliency.teacher, self.saliency.of
        if self.saliency.weight and of != "question" and name not in self.teachers:
            raise ValueError(
                f"saliency.of: {of!r} needs rationales of saliency.teacher {name!r}, which writes "
                f"none; choose one of the teachers ({', '.join(self.teachers) or 'none'}), or set "
                "saliency.weight to 0"
            )

    def _check_prefixes(self) -> None:
        """Refuse tasks without a prefix of their own, and a context that prefixes cannot share."""
        key, prefixes = "student.prompt.prefixes", self.student.prompt.prefixes
        if prefixes is None:
            return
        if self.student.shared_context or self.student.form == "after_answer":
            raise ValueError(
                f"{key}: with a prefix before it, a question has another text for each task; set "
                "student.shared_context to false and student.form to branch or before_answer"
            )
        tasks = [ANSWER, SALIENCY, *([REASONING] if self.student.reasons else self.teachers)]
        for name in prefixes:
            if name not in (*tasks, *self.models):
                raise ValueError(f"{key}: {unknown_name(name, tasks, 'task')}")
        taken: dict[str, str] = {}
        for name in tasks:
            if name not in prefixes:
                raise ValueError(f"{key}: no prefix for {name!r}; add one, such as explain")
            if other := taken.get(prefixes[name]):
                raise ValueError(
                    f"{key}: {other!r} and {name!r} both have {prefixes[name]!r}, so the student "
                    "cannot tell them apart; give each its own"
                )
            taken[prefixes[name]] = name

    def _check_form(self) -> None:
        """Refuse what a student that reasons first cannot learn, or what only it can."""
        reasons = self.student.reasons
        if reasons and self.train.mutual_information:
            raise ValueError(
                "train.mutual_information: in the form before_answer, a rationale's text contains "
                "the answer; set it to 0, or student.form to branch"
            )
        if reasons and not any(map(self.teacher_weight, self.teachers)):
            raise ValueError(
                "student.form: before_answer needs rationales, but there are no teachers or alpha "
                "is 0; set it to branch"
            )
        if not reasons and self.train.reasoned_answer:
            raise ValueError(
                "train.reasoned_answer: no answer follows a rationale in the form "
                f"{self.student.form}; set it to 0, or student.form to before_answer"
            )
        if not reasons and self.evaluate.samples:
            raise ValueError(
                f"evaluate.samples: a student of the form {self.student.form} does not reason; set "
                "it to 0, or student.form to before_answer"
            )
        if self.soft_labels.teacher and not self.student.direct:
            raise ValueError(
                "soft_labels.teacher: soft labels are learnt by answering directly, which "
                "student.direct=false leaves out; set soft_labels.teacher to null, or "
                "student.direct to true"
            )

    def _check_soft_labels(self) -> None:
        name = self.soft_labels.teacher
        if name is None:
            return
        if name not in self.teachers:
            raise ValueError(f"soft_labels.teacher: {unknown_name(name, self.teachers, 'teacher')}")
        if self.models[name].source in NO_WEIGHTS:
            raise ValueError(
                f"soft_labels.teacher: {name!r} (source {self.models[name].source}) gives no "
                "probabilities of the options; vLLM in process and transformers do: choose a "
                "teacher with weights on this machine"
            )

    @property
    def data_set(self) -> Kinship | Gym | Files | Hub:
        """The catalogue entry of the data set in use."""
        return self.datasets[self.data.name]

    @property
    def used_models(self) -> set[str]:
        """The models that a stage reads; only these are fetched.

        Weights in the loss do not count: they change what is learnt, not what is read.
        """
        used = {*self.teachers, self.student.model}
        if self.saliency.of == "question" or self.saliency.teacher in self.teachers:
            used.add(self.saliency.teacher)
        if self.teachers and self.assemble.reads_rationales:
            used.add(self.assemble.scorer)
        return used

    @property
    def training_seed(self) -> int:
        """The seed of the student's training: `train.seed`, or `seed` if that is null."""
        return self.seed if self.train.seed is None else self.train.seed

    def teacher_weight(self, teacher: str) -> float:
        """Return α of a teacher (TinyLLM, section 3.4)."""
        return self.alpha[teacher] if isinstance(self.alpha, dict) else self.alpha


def load_parameters(path: str | Path) -> Parameters:
    """Read and check a parameter file; raise `UserError` naming every wrong key at once."""
    return load_settings(path, Parameters)


if __name__ == "__main__":
    import sys

    sys.exit(report_errors("parameters", False, lambda: load_parameters(sys.argv[1])))
