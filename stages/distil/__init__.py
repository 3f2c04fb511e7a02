"""What the stages share, split by subject; nothing here imports a stage."""
