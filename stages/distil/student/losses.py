"""The losses that a student learns from; their weighted sum is minimised.

  L = L_answer + Σ_m α_m L_rationale(m) + λ L_saliency    (TinyLLM, eq. 6, with saliency added)

w L_soft and β L_MI are added likewise. A loss returns a sum over a batch and says what it is a sum
of, so that a step can be computed in several passes: L = sum / count, over all passes of the step,
times the share of the step's questions that the loss is about. So L_m = n/N · Σ_t ℓ_t / T over the
T target tokens of a teacher that explains n of the N questions of a step: what a rationale weighs
does not depend on how many others there are.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from stages.distil.encoding.samples import SOFT_LABELS, Sample
from stages.distil.interface.method import ANSWER
from stages.distil.student.batch import Batch, Target, target_logits, target_values


class Predictions(NamedTuple):
    """What the student predicts for a batch with T target tokens.

    `losses` (T,) are the cross-entropies of the tokens, `targets` the targets that they belong to,
    and `logits` (T, vocabulary) those of each token, if a loss needs them.
    """

    losses: Tensor
    targets: Sequence[Target]
    logits: Tensor | None = None


def predict(model: PreTrainedModel, batch: Batch, with_logits: bool = False) -> Predictions:
    """Return what a student predicts for a batch; its logits take memory."""
    if with_logits:
        logits = target_logits(model, batch)
        return Predictions(cross_entropies(logits, batch.labels)[:, 0], batch.targets, logits)
    return Predictions(target_values(model, batch, cross_entropies)[:, 0], batch.targets)


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Return −log p of each label (n,), from logits (n, vocabulary), as (n, 1)."""
    return functional.cross_entropy(logits, labels, reduction="none")[:, None]


class Loss(ABC):
    """A part of the total loss.

    It is about the targets of `tasks`, and is left out of a training that has none; `name` is that
    of its curve. With `whole_questions`, all samples of a question must be in one pass, and
    `needs_logits` says whether it looks at more than the labels' cross-entropies. A `bounded` loss
    cannot diverge.
    """

    whole_questions: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    bounded: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the curve."""

    @property
    @abstractmethod
    def tasks(self) -> Sequence[str]:
        """The tasks whose targets it is about."""

    @abstractmethod
    def count(self, samples: Sequence[Sample]) -> float:
        """Return what the sum is divided by, for samples of whole questions; 0 without a target."""

    @abstractmethod
    def __call__(self, predicted: Predictions) -> Tensor:
        """Return the sum over a batch, a scalar."""


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """L_answer, L_rationale(m) or L_saliency: the mean of −log p(token) over a task's targets.

    TinyLLM (Tian et al., 2025), eq. 2 and 5. The sum is Σ_t s_t ℓ_t, and the count Σ_t s_t, over
    the tokens t of the task's targets; s is the share of a target, 1 if it is its teacher's only
    rationale of its question.
    """

    task: str

    @property
    def name(self) -> str:
        """The task."""
        return self.task

    @property
    def tasks(self) -> Sequence[str]:
        """The task alone."""
        return [self.task]

    def count(self, samples: Sequence[Sample]) -> float:
        """Return the number of target tokens, each by the share of its target."""
        branches = (branch for sample in samples for branch in sample.branches)
        return sum(len(b.target) * b.share for b in branches if b.task == self.task)

    def __call__(self, predicted: Predictions) -> Tensor:
        """Return Σ_t s_t ℓ_t; the cross-entropies have shape (T,)."""
        own = [target for target in predicted.targets if target.branch.task == self.task]
        parts = [(range(t.start, t.end), t.branch.share) for t in own]
        return _sum_of_parts(predicted.losses, parts)


@dataclass(frozen=True)
class ReasonedAnswer(Loss):
    """The mean of −log p(token) over the answers that follow rationales.

    In a mean over all tokens of a rationale and its answer, the answer's few tokens count little.
    The sum is Σ_t s_t ℓ_t, and the count Σ_t s_t, over the tokens t of the answers, end-of-text
    included; s is the share of the target. Reasoning first: Ho et al. (ACL 2023), Magister et al.
    (ACL 2023), where the answer has no loss of its own.
    """

    teachers: tuple[str, ...]
    name = "reasoned_answer"

    @property
    def tasks(self) -> Sequence[str]:
        """The rationales."""
        return self.teachers

    def count(self, samples: Sequence[Sample]) -> float:
        """Return the number of the answers' tokens, each by the share of its target."""
        branches = (branch for sample in samples for branch in sample.branches)
        return sum(b.answer * b.share for b in branches if b.task in self.teachers)

    def __call__(self, predicted: Predictions) -> Tensor:
        """Return Σ_t s_t ℓ_t; the cross-entropies have shape (T,)."""
        own = [target for target in predicted.targets if target.branch.task in self.teachers]
        parts = [(range(t.end - t.branch.answer, t.end), t.branch.share) for t in own]
        return _sum_of_parts(predicted.losses, parts)


def _sum_of_parts(losses: Tensor, parts: Sequence[tuple[range, float]]) -> Tensor:
    """Return Σ_t s ℓ_t over the tokens t of each part, s being its share; the losses are (T,)."""
    tokens = [token for part, _ in parts for token in part]
    shares = [share for part, share in parts for _ in part]
    index = torch.tensor(tokens, dtype=torch.long, device=losses.device)
    return (losses[index] * losses.new_tensor(shares)).sum()


@dataclass(frozen=True)
class SoftCrossEntropy(Loss):
    """L_soft = −T² Σ_o softmax(t/T)_o log softmax(s/T)_o, the mean over questions.

    Hinton et al. (2015), sections 2 and 2.1; T² keeps the gradient's size the same at any
    `temperature`. The scores t of the teacher and s of the student are mean log-probabilities of an
    option's tokens, as `evaluate` compares options: a sum favours short options, and one that
    another option begins with would always beat that other.
    """

    temperature: float = 1.0
    name = SOFT_LABELS
    tasks = (SOFT_LABELS,)
    whole_questions = True

    def count(self, samples: Sequence[Sample]) -> float:
        """Return the number of questions with option scores."""
        return len({s.id for s in samples for b in s.branches if b.task == SOFT_LABELS})

    def __call__(self, predicted: Predictions) -> Tensor:
        """Return the sum over the questions; an option's score s is −mean of its ℓ, from (T,)."""
        options = defaultdict(list)
        for target in predicted.targets:
            if target.branch.task == SOFT_LABELS:
                options[target.question].append(target)
        total = predicted.losses.new_zeros(())
        for of_question in options.values():
            teacher = predicted.losses.new_tensor([o.branch.score for o in of_question])
            student = torch.stack([-predicted.losses[o.start : o.end].mean() for o in of_question])
            total = total + soft_cross_entropy(teacher, student, self.temperature)
        return total


def soft_cross_entropy(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return −T² Σ_o softmax(t/T)_o log softmax(s/T)_o of scores (options,), a scalar."""
    target = (teacher / temperature).softmax(0)
    return functional.cross_entropy(student / temperature, target) * temperature**2


@dataclass(frozen=True)
class MutualInformation(Loss):
    """L_MI = −Σ_v f(Z)_v log softmax(f(V))_v  with  f(X)_v = max_t softmax(X_t)_v.

    It maximises the mutual information of an answer and each rationale of its question: Chen et
    al., Findings of ACL 2024, section 3, as in the authors' code: f(Z) is a constant, and f(V) goes
    through the softmax of torch's cross-entropy. Z and V are the logits (tokens, vocabulary) of the
    answer and of the rationale.

    The paper trains T5, whose decoder writes nothing but a target, and its code also takes the
    maximum over padding. Here the positions t are those of targets alone, for a decoder-only
    student too.
    """

    teachers: tuple[str, ...]
    name = "mutual_information"
    whole_questions = True
    needs_logits = True
    bounded = True  # and it may grow while the student learns

    @property
    def tasks(self) -> Sequence[str]:
        """The rationales."""
        return self.teachers

    def count(self, samples: Sequence[Sample]) -> float:
        """Return the number of pairs of an answer and a rationale."""
        branches = [(sample.id, branch.task) for sample in samples for branch in sample.branches]
        answered = {question for question, task in branches if task == ANSWER}
        return sum(task in self.teachers and question in answered for question, task in branches)

    def __call__(self, predicted: Predictions) -> Tensor:
        """Return the sum over the pairs, from logits (T, vocabulary)."""
        logits = predicted.logits
        assert logits is not None

        def pooled(target: Target) -> Tensor:
            return logits[target.start : target.end].softmax(-1).amax(0)

        answers = {t.question: t for t in predicted.targets if t.branch.task == ANSWER}
        total = predicted.losses.new_zeros(())
        for target in predicted.targets:
            answer = answers.get(target.question)
            if target.branch.task in self.teachers and answer is not None:
                total = total + functional.cross_entropy(pooled(target), pooled(answer).detach())
        return total
