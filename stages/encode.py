"""Stage `encode`: turn the assembled data set into the tokens of one student."""

import sys

from stages.distil.interface.command import run_stage
from stages.distil.interface.parameters import Parameters
from stages.distil.storage import tables
from stages.distil.storage.examples import SPLITS


def encode(parameters: Parameters) -> None:
    """Write every split's tokens; say what the student cannot read or write in full.

    Every target is encoded, whatever its weight in the loss, so that another weight trains alone.
    """
    for split in SPLITS:
        tables.check_exists(tables.distill_table(split))
    # Importing transformers takes seconds, so a missing input is reported first.
    from stages.distil.encoding.writing import Job, encode_splits
    from stages.distil.weights.folders import model_folder

    student, evaluate = parameters.student, parameters.evaluate
    max_tokens = evaluate.max_tokens
    job = Job(
        model_folder(student.model),
        student,
        tuple(parameters.teachers),
        max_tokens,
        evaluate.reasoning_tokens,
    )
    report, window = encode_splits(job)
    for split, limits in report.limits.items():
        # Train questions are learnt, the others answered.
        for line in limits.lines(window, None if split == "train" else max_tokens):
            print(f"encode: warning: {split}: {line}", file=sys.stderr)


if __name__ == "__main__":
    run_stage(encode, __doc__)
