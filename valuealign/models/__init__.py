"""Language models, and the only room that knows Hugging Face: load, adapt, score, generate, host, make the seed model.

Import its modules by name (``valuealign.models.load``); the package itself loads nothing heavy.
"""

import logging

# PEFT loads bitsandbytes where it is installed, and that tells on some CPUs of a kernel that we do not use.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
