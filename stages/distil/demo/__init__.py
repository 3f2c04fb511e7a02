"""A local page on which the trained student answers: `make try`.

May import: reporting, evaluation, student, teachers, encoding, models, weights, language, storage,
interface.
"""
