"""The environment variables that Ray, DeepSpeed and the model libraries read, set in one place.

Each of them is read when its library is imported or its processes start, so a process calls
``prepare_environment()`` before it imports ray, deepspeed or transformers. Nothing here imports
them. A shell that types ``ray start`` or ``ray job submit`` gets the same variables with

    eval "$(python -m valuealign.cluster.env)"
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from valuealign.config import home
from valuealign.errors import ConfigError

# What is the same on every machine.
SETTINGS: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A run loads models from folders; nothing is fetched behind the user's back.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Two helpers of Ray Train that a run of ours does not use; without them it starts sooner.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # On a busy box workers take longer than Ray's minute to start, and after a loss there may first be no room.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    # How long a stopped trial's driver may take to end before Tune gives it and the next trial up.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
    # Jobs print progress of their own.
    "RAY_AIR_NEW_OUTPUT": "0",
}

# Device files of the NVIDIA and the AMD driver. CUDA_VISIBLE_DEVICES is no guide: Ray empties it
# in processes that reserved no GPU, and they hand their environment on to some that did.
GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd")

# Any of these says which cluster is meant, and whose token it takes.
CHOSEN_CLUSTER = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

TOKEN_BYTES = 32


def prepare_environment(*, token_file: bool = True) -> dict[str, str]:
    """Set what is not set already; returns the variables that this call set, by name.

    A cluster that this process starts is closed to others by a token, kept in
    ``$VALUEALIGN_HOME/ray_token``. Where ``RAY_ADDRESS`` names a running cluster (it does in
    every submitted job) or Ray's own token variables are set, the token is that cluster's affair
    and is left alone. ``token_file=False`` touches no file: ``make_token`` is then to be called
    before a cluster starts.

    Raises ConfigError where the token file cannot be written.
    """
    wanted = dict(SETTINGS)
    wanted["TORCH_EXTENSIONS_DIR"] = str(home() / "torch_extensions")
    if not any(Path(device).exists() for device in GPU_DEVICES):
        wanted["DS_ACCELERATOR"] = "cpu"
    if not any(os.environ.get(name) for name in CHOSEN_CLUSTER):
        wanted["RAY_AUTH_MODE"] = "token"
        wanted["RAY_AUTH_TOKEN_PATH"] = str(_token_path())
    fresh = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(fresh)
    if token_file:
        make_token()
    return fresh


def make_token() -> None:
    """Write the token file (mode 0600) if this process is to use it and it is missing.

    Raises ConfigError where it cannot be written.
    """
    path = _token_path()
    if os.environ.get("RAY_AUTH_TOKEN_PATH") != str(path) or path.is_file():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(TOKEN_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)  # of processes that start at once, the first one gives the token
        aside.unlink()
    except OSError as error:
        raise ConfigError(
            f"cannot write Ray's token ({error.strerror})",
            where=str(path),
            mend="set VALUEALIGN_HOME to a folder that you may write to",
        ) from None


def _token_path() -> Path:
    return home() / "ray_token"


def main() -> None:
    """Print the variables as lines that a shell evaluates."""
    try:
        prepare_environment()
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    names = [*SETTINGS, "TORCH_EXTENSIONS_DIR", "DS_ACCELERATOR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"]
    os.environ.setdefault("VALUEALIGN_HOME", str(home()))
    for name in ["VALUEALIGN_HOME", *names]:
        if name in os.environ:
            print(f"export {name}={shlex.quote(os.environ[name])}")


if __name__ == "__main__":
    main()
