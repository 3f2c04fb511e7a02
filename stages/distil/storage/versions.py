"""Versions of the algorithms: part of the key of everything that is kept between runs.

Raise one when a change of code, or of a parameter's default in the code, changes what its algorithm
gives for the same inputs. The bytes of source files are no part of any key, so nothing else has to
be computed again.
tests/test_versions.py pins a small result to each version.
"""

QUESTIONS = 1  # drawing, reading and choosing questions
TEXTS = 1  # encoding a teacher's prompt, generating after it, the quality gate
TUNING = 1  # of a teacher, before its attribution is read
ATTRIBUTION = 1  # encoding a prompt and its words, and their scores
TARGETS = 1  # joining a question with its targets, choosing its salient words
TRAINING = 1  # encoding the student's samples, loss, order, schedule
EVALUATION = 1  # answering, reading an answer, counting
