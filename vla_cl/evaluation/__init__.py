"""Scores of any family: the table of trials, and scores on samples that are held out."""
