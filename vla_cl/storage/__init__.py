"""Folders that are whole: their names, who may write, the size and hash of every file."""
