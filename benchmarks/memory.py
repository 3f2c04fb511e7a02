"""Peak memory and speed of training on long rationales, and whether their losses stay the same.

Each measurement is a process of its own that trains a student for two steps on a question with two
rationales of random tokens. Run from the project's folder after `make repro`:
    stages/python -m benchmarks.memory [--student qwen-coder-0b5] [--tokens 100 1000 4000 8000]
Form `parts` is what the pipeline does: logits in parts, for long texts fused attention and, if the
estimate says that a pass does not fit, activations computed twice. Form `whole` does none of it.
The last line is a JSON object:
`peak_gb_N` is the peak memory of the whole process with rationales of N tokens, `beyond_gb_N` what
of it is not weights, gradients and optimizer state (16 bytes per weight), `tokens_per_s_N` the
speed of the second step, all in parts; `whole_…` are those of the other form, measured up to
--whole tokens. `loss_difference` is the largest relative difference between the two forms: of the
second step, after one update, it is 1e-4 in bfloat16, whose rounding depends on the parts.
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.train import train_epoch
from stages.distil.encoding.samples import Branch, Sample
from stages.distil.interface.errors import report_errors
from stages.distil.interface.method import Train
from stages.distil.models.hardware import (
    activations_fit,
    pass_tokens,
    precision,
    return_large_memory,
    training_bytes,
)
from stages.distil.models.loading import choose_attention, load_model
from stages.distil.student.answering import AnswerLengths
from stages.distil.student.batch import HEAD_BYTES, Collator
from stages.distil.student.losses import CrossEntropy
from stages.distil.student.training import (
    Steps,
    TrainingData,
    TrainingSetup,
    peak_memory,
)
from stages.distil.weights.folders import model_folder

TEACHERS = ("one", "two")
QUESTION, ASKED = 100, 4  # tokens of a question, and of what asks for a rationale
STEPS = 2


def measure(
    student: str, tokens: int, form: str, per_step: int = 1, dtype: str = "auto"
) -> dict[str, Any]:
    """Train in this process for two steps of so many questions; return losses, memory and speed."""
    model, tokenizer = load_model(model_folder(student), "float32", place=False)
    torch.manual_seed(0)

    def drawn(count: int) -> list[int]:
        return torch.randint(1000, 30_000, (count,)).tolist()

    questions = [
        [
            Sample(
                str(n), drawn(QUESTION), [Branch(t, drawn(ASKED), drawn(tokens)) for t in TEACHERS]
            )
        ]
        for n in range(STEPS * per_step)
    ]
    length = questions[0][0].length
    if form == "parts":
        choose_attention(model, length)
    dtype = precision(dtype)
    settings = Train(epochs=1, learning_rate=1e-5, batch_size=per_step)
    held = training_bytes(model, settings.optimizer, "float32")
    fits = activations_fit(model, length, dtype, held)
    if form == "parts" and not fits:
        return_large_memory()
    batch_tokens = pass_tokens("auto", length, model, held)
    objective = tuple((CrossEntropy(teacher), 1.0) for teacher in TEACHERS)
    losses = [loss for loss, _ in objective]
    run = train_epoch(
        model,
        tokenizer,
        Steps(questions, Collator(model, tokenizer), losses, settings, batch_tokens, 0),
        TrainingSetup(settings, objective, 0, AnswerLengths(1, 1), dtype, ""),
        TrainingData(questions, [], None, 0, length, ""),
        gradient_checkpointing=form == "parts" and not fits,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    peak = peak_memory()
    return {
        "peak_gb": round(peak / 1e9, 2),
        "beyond_gb": round((peak - held) / 1e9, 2),
        "tokens_per_s": round(per_step * length / run.seconds[-1], 1),
        "losses": run.losses,
        "fits": fits,
    }


def in_process(student: str, tokens: int, form: str, dtype: str = "auto") -> dict[str, Any]:
    """Measure in a process of its own, and print the result."""
    command = [sys.executable, "-m", "benchmarks.memory", "--student", student]
    command += ["--tokens", str(tokens), "--once", form, "--dtype", dtype]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"{tokens:,} tokens, {form}: failed (exit code {done.returncode})", flush=True)
        return {}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{tokens:,} tokens, {form}: {result}", flush=True)
    return result


def main() -> int:
    """Print the table and its JSON object; return 1 if a measurement in parts failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--student", default="qwen-coder-0b5", help="(%(default)s)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[100, 1000, 4000, 8000])
    parser.add_argument("--whole", type=int, default=1000, help="most tokens (%(default)s)")
    parser.add_argument(
        "--dtype", default="auto", help="precision, as in params.yaml (%(default)s)"
    )
    parser.add_argument("--once", choices=["parts", "whole"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        bound = 2**62 if arguments.once == "whole" else HEAD_BYTES

        def once() -> None:
            student, (tokens, *_) = arguments.student, arguments.tokens
            print(json.dumps(measure(student, tokens, arguments.once, dtype=arguments.dtype)))

        with patch("stages.distil.student.batch.HEAD_BYTES", bound):
            return report_errors("memory", debug=False, action=once)
    measured = partial(in_process, arguments.student, dtype=arguments.dtype)
    result: dict[str, Any] = {}
    difference = 0.0
    for tokens in arguments.tokens:
        parts = measured(tokens, "parts")
        whole = measured(tokens, "whole") if tokens <= arguments.whole else {}
        for prefix, found in (("", parts), ("whole_", whole)):
            names = ("peak_gb", "beyond_gb", "tokens_per_s") if found else ()
            result |= {f"{prefix}{name}_{tokens}": found[name] for name in names}
        if parts and whole:
            pairs = zip(parts["losses"], whole["losses"], strict=True)
            difference = max(difference, *(abs(a - b) / b for a, b in pairs))
    print(json.dumps(result | {"loss_difference": float(f"{difference:.2g}")}))
    return int(any(f"peak_gb_{tokens}" not in result for tokens in arguments.tokens))


if __name__ == "__main__":
    sys.exit(main())
