"""Speed of the attribution compared with Captum's own loop and with bare passes of the model.

Captum's `LLMGradientAttribution` takes one row and one label token at a time, in float32. Run from
the project's folder after `make repro`:
    stages/python -m benchmarks.saliency [--data ../shared/datasets/arc] [--rows 64] [--ig-rows 64]
The last line is a JSON object. Its ratios compare rows per second: `vs_captum` with Captum,
`vs_captum_same_dtype` with Captum and both in float32, `vs_floor` with forward and backward passes
over the same tokens without padding. `topk_agreement` is the share of rows with the same top words
as in float32. Keys that end in `_ig` are for integrated gradients with 16 steps; Captum's loop for
these takes most of the hour that the benchmark needs on 2 cores.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from captum.attr import (
    LayerGradientXActivation,
    LayerIntegratedGradients,
    LLMGradientAttribution,
    TextTokenInput,
)
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.attribution.attributor import Attributor
from stages.distil.attribution.prompts import Prompt, encode_prompt
from stages.distil.interface.errors import report_errors
from stages.distil.interface.method import Saliency
from stages.distil.interface.parameters import load_parameters
from stages.distil.language.chat import Chat
from stages.distil.language.teacher_prompts import PromptFile
from stages.distil.models.hardware import precision
from stages.distil.models.loading import load_model
from stages.distil.storage.examples import Example
from stages.distil.weights.folders import model_folder

STEPS = 16
REPEATS = 3  # of measurements that take seconds; the median counts
TOP_K = 5


def questions(folder: Path, rows: int) -> list[Example]:
    """Read the first train questions of a folder with JSON lines."""
    with (folder / "train.jsonl").open(encoding="utf-8") as file:
        records = [json.loads(line) for _, line in zip(range(rows), file, strict=False)]
    return [Example(r["id"], "train", r["question"], r["options"], r["answer"]) for r in records]


class Teacher:
    """A loaded teacher and the encoded questions."""

    def __init__(self, name: str, dtype: str, examples: Sequence[Example]):
        self.model: PreTrainedModel
        self.tokenizer: PreTrainedTokenizerBase
        self.model, self.tokenizer = load_model(model_folder(name), dtype)
        wording = PromptFile(load_parameters("params.yaml").rationales.prompts.answer)
        chat = Chat(name, self.tokenizer)
        self.prompts = [
            encode_prompt(chat, wording.conversation(example), example, example.answer)
            for example in examples
        ]

    def ours(self, settings: Saliency) -> tuple[list[list[float]], float]:
        """Return the scores of every row, and the seconds."""
        attributor = Attributor(self.model, settings, self.tokenizer.pad_token_id)
        attributor.score(self.prompts[:1])  # warm-up: the first pass of a process is slow
        start = time.perf_counter()
        attributor.cache_prefix(self.prompts)
        words: list[list[float]] = [[] for _ in self.prompts]
        for chosen in attributor.batches(self.prompts):
            batch = attributor.score([self.prompts[i] for i in chosen])
            for i, scores in zip(chosen, batch, strict=True):
                words[i] = scores.words
        return words, time.perf_counter() - start

    def captum(self, integrated: bool) -> tuple[list[list[float]], float]:
        """Return the same from Captum's loop over rows and label tokens."""
        layer = self.model.get_input_embeddings()
        kind = LayerIntegratedGradients if integrated else LayerGradientXActivation
        self.model.enable_input_require_grads()
        loop = LLMGradientAttribution(kind(self.model, layer), self.tokenizer)
        words = []
        start = time.perf_counter()
        for prompt in self.prompts:
            text = TextTokenInput(
                self.tokenizer.decode(prompt.ids),
                self.tokenizer,
                baselines=self.tokenizer.pad_token_id,
            )
            arguments = {}
            if integrated:
                kept = torch.ones(1, len(prompt.ids), dtype=torch.long)
                kept[0, prompt.tokens] = 0
                arguments = {"baselines": kept, "n_steps": STEPS}
            scores = loop.attribute(text, target=torch.tensor(prompt.label), **arguments).seq_attr
            words.append(by_word(prompt, scores))
        seconds = time.perf_counter() - start
        self.model.disable_input_require_grads()
        return words, seconds

    def floor(self, settings: Saliency, passes: int) -> float:
        """Return the seconds of bare passes over as many tokens, in rows of equal length."""
        attributor = Attributor(self.model, settings, self.tokenizer.pad_token_id)
        attributor.cache_prefix(self.prompts)
        lengths = [attributor._length(prompt) for prompt in self.prompts]
        width = sum(lengths) // len(lengths)
        rows = max(1, attributor.batch_tokens // width)
        labels = max(1, round(sum(len(p.label) for p in self.prompts) / len(self.prompts)))
        total = passes * len(self.prompts)
        embed = self.model.get_input_embeddings()
        self._pass(
            embed(torch.full((1, width), 100, device=self.model.device)).detach().requires_grad_(),
            labels,
        )
        start = time.perf_counter()
        for first in range(0, total, rows):
            ids = torch.full((min(rows, total - first), width), 100, device=self.model.device)
            self._pass(embed(ids).detach().requires_grad_(), labels)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def _pass(self, embeddings: Tensor, labels: int) -> None:
        width = embeddings.shape[1]
        logits = self.model(
            inputs_embeds=embeddings,
            use_cache=False,
            logits_to_keep=torch.arange(width - labels, width),
        ).logits
        logits.float().log_softmax(-1)[..., 0].sum().backward()


def by_word(prompt: Prompt, tokens: Tensor) -> list[float]:
    """Sum the scores of tokens by word."""
    words = [0.0] * prompt.count
    for token, word in zip(prompt.tokens, prompt.words, strict=True):
        words[word] += tokens[token].item()
    return words


def difference(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """Return the largest difference, relative to the largest score of its row."""
    return max(
        max(abs(a - b) for a, b in zip(x, y, strict=True)) / max(map(abs, y))
        for x, y in zip(ours, theirs, strict=True)
    )


def agreement(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """Return the share of rows with the same top words."""

    def top(scores: list[float]) -> set[int]:
        return set(sorted(range(len(scores)), key=lambda i: -abs(scores[i]))[:TOP_K])

    same = [top(x) == top(y) for x, y in zip(ours, theirs, strict=True)]
    return sum(same) / len(same)


def passes(settings: Saliency) -> int:
    """Return the number of passes of a method over each row."""
    return settings.steps if settings.method == "integrated_gradients" else 1


def measure(name: str, examples: list[Example], settings: Saliency) -> dict[str, float]:
    """Measure one method on these questions."""
    integrated = settings.method == "integrated_gradients"
    times = range(1 if integrated else REPEATS)
    shipped = Teacher(name, precision("auto"), examples)
    pairs = [(shipped.ours(settings), shipped.floor(settings, passes(settings))) for _ in times]
    scores = pairs[0][0][0]
    seconds, floor = median(ours for (_, ours), _ in pairs), median(bare for _, bare in pairs)
    plain = Teacher(name, "float32", examples)
    runs = [plain.ours(settings) for _ in times]
    exact, exact_seconds = runs[0][0], median(ours for _, ours in runs)
    theirs, captum_seconds = plain.captum(integrated)
    print(
        f"{settings.method}, {len(examples)} rows: as shipped ({precision('auto')}) {seconds:.1f} s"
        f", float32 {exact_seconds:.1f} s, Captum {captum_seconds:.1f} s, floor {floor:.1f} s"
    )
    return {
        "vs_captum": round(captum_seconds / seconds, 2),
        "vs_captum_same_dtype": round(captum_seconds / exact_seconds, 2),
        "vs_floor": round(floor / seconds, 3),
        "max_difference": float(f"{difference(exact, theirs):.2g}"),
        "topk_agreement": round(agreement(scores, exact), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/datasets/arc"))
    parser.add_argument("--rows", type=int, default=64, help="(%(default)s)")
    parser.add_argument("--ig-rows", type=int, help="of integrated gradients (as --rows)")
    parser.add_argument("--teacher", default="smollm2-135m", help="(%(default)s)")
    arguments = parser.parse_args()
    if not (file := arguments.data / "train.jsonl").is_file():
        parser.error(f"{file}: no such file; expected questions as in docs/data.md")
    settings = load_parameters("params.yaml").saliency
    result = measure(arguments.teacher, questions(arguments.data, arguments.rows), settings)
    few = questions(arguments.data, arguments.ig_rows or arguments.rows)
    changed = {"method": "integrated_gradients", "steps": STEPS}
    integrated = measure(arguments.teacher, few, settings.model_copy(update=changed))
    result |= {f"{key}_ig": value for key, value in integrated.items()}
    print(json.dumps(result | {"rows": arguments.rows, "ig_rows": len(few)}))


if __name__ == "__main__":
    sys.exit(report_errors("saliency", debug=False, action=main))
