"""A run: from settings to parts, experience after experience, and everything that lies in its folder."""
