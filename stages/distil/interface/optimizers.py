"""The optimizers that a student can be trained with: transformers' names, packages, memory."""

import importlib.util
from typing import NamedTuple

from stages.distil.interface.messages import unknown_name


class Optimizer(NamedTuple):
    """What an optimizer keeps, and the package that it needs.

    Its state has `values` per weight, of `size` bytes each; None is the size of the weight.
    """

    values: int
    size: int | None = None
    package: str | None = None

    def bytes_per_weight(self, weight: int) -> int:
        """Return the bytes per weight of `weight` bytes: itself, its gradient and the state."""
        return 2 * weight + self.values * (self.size or weight)


OPTIMIZERS = {
    "adamw_torch_fused": Optimizer(2),
    "adamw_torch": Optimizer(2),
    "adafactor": Optimizer(0),  # a row and a column per matrix
    "sgd": Optimizer(0),
    "adagrad": Optimizer(1),
    "rmsprop": Optimizer(1),
    "adamw_torch_8bit": Optimizer(2, 1, "torchao"),
    "adamw_torch_4bit": Optimizer(1, 1, "torchao"),  # two values in a byte
    "adamw_bnb_8bit": Optimizer(2, 1, "bitsandbytes"),
    "adamw_8bit": Optimizer(2, 1, "bitsandbytes"),
    "paged_adamw_8bit": Optimizer(2, 1, "bitsandbytes"),
    "paged_adamw_32bit": Optimizer(2, 4, "bitsandbytes"),
    "ademamix_8bit": Optimizer(3, 1, "bitsandbytes"),
    "ademamix": Optimizer(3, 4, "bitsandbytes"),
    "paged_ademamix_8bit": Optimizer(3, 1, "bitsandbytes"),
    "paged_ademamix_32bit": Optimizer(3, 4, "bitsandbytes"),
    "lion_8bit": Optimizer(1, 1, "bitsandbytes"),
    "lion_32bit": Optimizer(1, 4, "bitsandbytes"),
    "paged_lion_8bit": Optimizer(1, 1, "bitsandbytes"),
    "paged_lion_32bit": Optimizer(1, 4, "bitsandbytes"),
    "rmsprop_bnb": Optimizer(1, 4, "bitsandbytes"),
    "rmsprop_bnb_8bit": Optimizer(1, 1, "bitsandbytes"),
    "rmsprop_bnb_32bit": Optimizer(1, 4, "bitsandbytes"),
}
# The Trainer's others, by how their names begin.
REFUSED = {
    "galore": "it needs a list of layers",
    "apollo": "it needs a list of layers",
    "lomo": "it updates the weights after each pass, but a step can have several passes",
    "adalomo": "it updates the weights after each pass, but a step can have several passes",
    "schedule_free": "it replaces the schedule of the learning rate",
    "grokadamw": "it needs the validation loss in each step",
    "stable_adamw": "the memory of its state has not been measured",
    "adamw_anyprecision": "its package, torchdistx, has no release",
    "adamw_torch_xla": "it needs a TPU",
    "adamw_torch_npu_fused": "it needs an NPU",
}


def check_optimizer(name: str) -> None:
    """Raise `ValueError` if an optimizer cannot be used, or its package is not installed."""
    for beginning, reason in REFUSED.items():
        if name.startswith(beginning):
            raise ValueError(f"{name!r} is not supported: {reason}; choose adamw_torch_fused")
    if name not in OPTIMIZERS:
        raise ValueError(unknown_name(name, OPTIMIZERS, "optimizer"))
    package = OPTIMIZERS[name].package
    if package and importlib.util.find_spec(package) is None:
        raise ValueError(
            f"{name!r} needs a package that is not installed; run "
            f"`.venv/bin/uv pip install --python .venv/bin/python {package}`"
        )
