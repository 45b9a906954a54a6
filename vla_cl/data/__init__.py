"""Streams of tasks from LeRobotDatasets; fast frame access; normalisation."""
