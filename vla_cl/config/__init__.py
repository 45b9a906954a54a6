"""From yaml files and the command line to settings and parts (Hydra)."""
