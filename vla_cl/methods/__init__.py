"""Continual-learning methods: one method, one file."""
