"""The user interface: parameter files, the command line, one-line errors.

Imports no other room. No stage depends on it in dvc.yaml: DVC tracks the parameters' values.
"""
