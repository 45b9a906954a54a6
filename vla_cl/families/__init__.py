"""Families of models: each says how its model is made, what it learns from and how it is scored."""
