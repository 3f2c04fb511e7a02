"""What the stages share, one room a subject; nothing here imports a stage.

pyproject.toml says which room may import which, and `lint-imports` checks it.
"""
