"""Commands beside the run: the demo, the doctor, the gallery of settings, the catalogue of methods."""
