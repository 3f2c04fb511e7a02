"""The optimizers of transformers' Trainer, and the packages that they need."""

import importlib.util

import pytest
from transformers.training_args import OptimizerNames

from stages.distil.interface.errors import UserError
from stages.distil.interface.optimizers import OPTIMIZERS, REFUSED
from stages.distil.interface.parameters import load_parameters


def test_every_optimizer_of_the_trainer_is_supported_or_refused():
    names = {name.value for name in OptimizerNames}
    refused = {name for name in names if name.startswith(tuple(REFUSED))}
    assert names - refused == set(OPTIMIZERS)
    assert all(any(name.startswith(beginning) for name in names) for beginning in REFUSED)


@pytest.mark.parametrize("package", ["bitsandbytes", "torchao"])
def test_a_package_that_is_not_installed_is_named(write_params, monkeypatch, package):
    names = [name for name, optimizer in OPTIMIZERS.items() if optimizer.package == package]
    present = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else present(name)
    )
    for name in names:
        with pytest.raises(UserError) as error:
            load_parameters(write_params({"train/optimizer": name}))
        assert str(error.value).endswith(
            f"train.optimizer: {name!r} needs a package that is not installed; run "
            f"`.venv/bin/uv pip install --python .venv/bin/python {package}`"
        )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert load_parameters(write_params({"train/optimizer": names[0]})).train.optimizer == names[0]
