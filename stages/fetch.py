"""Stage `fetch`, one per model: turn a catalogue entry into a local Hugging Face folder."""

from stages.distil.interface.command import run_stage
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import Parameters
from stages.distil.weights.fetching import fetch_model


def fetch(parameters: Parameters, model: str) -> None:
    """Write the folder of a model."""
    if model not in parameters.models:
        names = ", ".join(parameters.models)
        raise UserError(f"unknown model {model!r}; models in the catalogue: {names}")
    fetch_model(model, parameters.models[model])


if __name__ == "__main__":
    run_stage(fetch, __doc__, ("model", "name in the catalogue of models"))
