"""Speed of training and of attribution on this machine, beside what the hardware can do."""

import re
from statistics import median
from typing import Any

import torch

from benchmarks import saliency
from benchmarks.memory import ASKED, QUESTION, TEACHERS, measure
from stages.distil.interface.parameters import load_parameters
from stages.distil.models.hardware import precision
from stages.distil.questions.kinship import read
from stages.distil.weights.architecture import model_without_weights
from stages.distil.weights.folders import model_folder

# Dense products per second in bfloat16, by a word of the device's name. NVIDIA's data sheets.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12}
REPEATS = 3


def peak(name: str) -> float | None:
    """Return the bfloat16 peak of a device in FLOP/s; None if it is not known."""
    words = re.split(r"[\s-]", name)
    return next((value for word, value in PEAKS.items() if word in words), None)


def training_flops(folder: str, tokens: int, targets: int, pairs: float) -> float:
    """Return the products and sums of a forward and backward pass, 3 times those of the forward.

    Each of the layers' weights counts for every token, and the head's for every target. Attention
    counts `pairs`, the number of pairs of a token and one that it sees. What is computed twice to
    save memory counts once, and so does the embedding, which multiplies nothing, not at all.
    """
    model = model_without_weights(model_folder(folder), "bfloat16")
    config = model.config
    head = config.vocab_size * config.hidden_size
    embeddings = head * (1 if config.tie_word_embeddings else 2)
    products = (model.num_parameters() - embeddings) * tokens + head * targets
    return 3 * (2 * products + 4 * config.num_hidden_layers * config.hidden_size * pairs)


def training_speed(shape: str, tokens: int, per_step: int) -> dict[str, Any]:
    """Return tokens/s, and the share of the peak, of a step of at least `per_step` tokens.

    Each question has two rationales of `tokens` tokens. The optimizer's own step is not counted.
    """
    branch = ASKED + tokens - 1  # the last token is predicted, but not read
    length = QUESTION + len(TEACHERS) * branch
    found = measure(shape, tokens, "parts", -(-per_step // length))
    pairs = QUESTION**2 / 2 + len(TEACHERS) * branch * (QUESTION + branch / 2)
    flops = training_flops(shape, length, len(TEACHERS) * tokens, pairs)
    speed = found["tokens_per_s"]
    known = peak(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else None
    achieved = flops * speed / length
    return {
        "tokens_per_s": speed,
        "tflops": round(achieved / 1e12, 3),
        "mfu": round(achieved / known, 3) if known else None,
        "peak_gb": found["peak_gb"],
        "checkpointed": not found["fits"],
    }


def attribution_speed(teacher: str, rows: int) -> dict[str, Any]:
    """Return rows/s of gradient × input, and their ratio to bare passes over as many tokens."""
    parameters = load_parameters("params.yaml")
    data_set = parameters.datasets["kinship"]
    sizes = data_set.sizes.model_copy(update={"train": rows})
    questions = read(data_set.model_copy(update={"sizes": sizes}), parameters.seed)
    examples = [question for question in questions if question.split == "train"]
    settings = parameters.saliency
    loaded = saliency.Teacher(teacher, precision("auto"), examples)
    pairs = [(loaded.ours(settings)[1], loaded.floor(settings, 1)) for _ in range(REPEATS)]
    seconds, floor = median(ours for ours, _ in pairs), median(bare for _, bare in pairs)
    return {"rows_per_s": round(rows / seconds, 1), "vs_floor": round(floor / seconds, 3)}
