"""Language models, and the only room that knows Hugging Face: load, adapt, score, generate, host, make the seed model.

Import its modules by name (``valuealign.models.load``); the package itself loads nothing heavy.
"""
