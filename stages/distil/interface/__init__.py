"""How a user speaks with the pipeline: parameters in, progress and errors of one line out.

Imports no other room. No stage depends on it in dvc.yaml: parameters count by their values.
"""
