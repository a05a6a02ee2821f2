"""The checks, in the order in which a long run would meet what they look at."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from valuealign.cluster.env import GPU_DEVICES
from valuealign.config import load
from valuealign.errors import ClusterError, ModelError
from valuealign.preflight import packages, workers
from valuealign.preflight.outcome import Check, Skip
from valuealign.preflight.site import Site
from valuealign.preflight.small import OPTIONS, QUESTIONS, STAGE, Killer, Setting, cells, small_run

LEAST_DISK = 5e9  # bytes: a few checkpoints of adapters
NUMBERS = {True: 64 * 2**20, False: 2**20}  # of 4 bytes, on a GPU or not
FEW_STEPS, STEPS, SERVED_STEPS = 2, 8, 40
SHARES_ALIKE = {"float32": 1e-3, "bfloat16": 0.02}  # kernels differ; training moves them by far more
EXCHANGE_SECONDS, MODEL_SECONDS = 120, 900
RAY_LOGS = "the logs under /tmp/ray/session_latest/logs say more"


def versions(site: Site) -> str:
    """The packages are those that the project pins."""
    return packages.compare(site.pins, packages.installed(site.pins))


def ray(site: Site) -> str:
    """A cluster answers, and has this box's GPUs."""
    size = site.size()
    if not size.gpus and any(Path(device).exists() for device in GPU_DEVICES):
        raise ClusterError(
            "this box has a GPU, and the cluster has none",
            where=socket.gethostname(),
            mend="start the head with --num-gpus where `nvidia-smi` shows them, CUDA_VISIBLE_DEVICES not empty",
        )
    return f"{size.boxes} box(es), {size.cpus:g} CPUs, {size.gpus} GPUs"


def storage(site: Site) -> str:
    """Every worker writes where the others read."""
    folder = site.folder("storage")
    names = site.group().each(workers.leave, folder)
    unseen = sorted({name for found in site.group().each(workers.lacking, folder, names) for name in found})
    if unseen:
        what = f"what {', '.join(unseen)} wrote is not seen by all workers"
        raise ClusterError(what, where=str(folder), mend="put VALUEALIGN_HOME on a folder that all boxes share (NFS)")
    free = shutil.disk_usage(folder).free
    if free < LEAST_DISK:
        mend = "free some space, or put VALUEALIGN_HOME on another disk"
        raise ClusterError(f"only {free / 1e9:.1f} GB are free", where=str(folder), mend=mend)
    return f"{site.out}: {len(names)} workers write and read, {free / 1e9:.0f} GB free"


def device(site: Site) -> str:
    """Torch computes on each worker's device."""
    return "; ".join(counted(site.group().each(workers.device, site.size().gpus > 0)))


def deepspeed(site: Site) -> str:
    """DeepSpeed takes the right device."""
    return "; ".join(counted(site.group().each(workers.deepspeed, site.size().gpus > 0)))


def collectives(site: Site) -> str:
    """The workers add up over NCCL (gloo without GPUs)."""
    if site.size().gpus == 1:
        raise Skip("one GPU has no other to talk to")
    site.group().connect()
    found = site.group().each(workers.add_up, NUMBERS[site.size().gpus > 0], seconds=EXCHANGE_SECONDS)
    seconds, world = max(one.seconds for one in found), len(found)
    rate = 2 * (world - 1) / world * found[0].size / max(seconds, 1e-9) / 1e9
    return f"{found[0].backend}, {world} ranks: {found[0].size / 2**20:.0f} MiB at {rate:.2g} GB/s each way"


def packing(site: Site) -> str:
    """Packed and dense scores agree."""
    setting = site.setting()
    nats, why = site.group().first(workers.packing, setting, seconds=MODEL_SECONDS)
    if why:
        raise Skip(f"this model is not packed: {why}")
    return f"they differ by {nats:.1g} nats in {setting.dtype}"


def zero3(site: Site) -> str:
    """Steps under ZeRO-3 over all workers equal those of one process."""
    setting, folder = site.setting(), site.folder("zero3")
    alone = site.group().first(workers.alone, setting, folder / "alone", FEW_STEPS, seconds=MODEL_SECONDS).losses
    site.group().connect()
    site.group().each(workers.zero3, setting, folder / "sharded", FEW_STEPS, seconds=MODEL_SECONDS)
    sharded = [loss for _, loss in workers.losses(folder / "sharded")]
    alike(setting, sharded, alone, "under ZeRO-3")
    return f"{setting.workers} rank(s), {told(setting)}: loss {sharded[0]:.4f} -> {sharded[-1]:.4f}, as in one process"


def resume(site: Site) -> str:
    """A worker killed in mid-run is replaced, and the run ends where an uninterrupted one does."""
    from valuealign.cluster.train import fit

    setting, folder = site.setting(), site.folder("resume")
    alone = site.group().first(workers.alone, setting, folder / "alone", STEPS, seconds=MODEL_SECONDS).losses
    site.release()
    run = small_run(setting, folder / "run", steps=STEPS)
    site.progress("  a worker is now killed in mid-run: what Ray says of its death is meant to be")
    probe = Killer(cells()[:1], folder / "killed")
    fit(replace(run, probe=probe, probes=2), name=STAGE, progress=site.progress)
    return resumed(setting, workers.losses(run.out), alone, killed=probe.mark.exists())


def resumed(setting: Setting, done: list[tuple[int, float]], alone: list[float], *, killed: bool) -> str:
    """Words on the steps that a killed run did, held to those of one process. Raises ClusterError, ModelError."""
    back = next((i for i in range(1, len(done)) if done[i][0] <= done[i - 1][0]), None)
    if not killed or back is None:
        raise ClusterError("no worker was killed, so nothing was shown", mend=RAY_LOGS)
    before, after = dict(done[:back]), dict(done[back:])
    if 1 in after:
        mend = f"checkpoints must lie where all boxes read them (VALUEALIGN_HOME); {RAY_LOGS}"
        raise ClusterError("the run began anew instead of at its last checkpoint", mend=mend)
    twice = sorted(before.keys() & after.keys())
    alike(setting, [after[step] for step in twice], [before[step] for step in twice], "after the kill")
    alike(setting, list({**before, **after}.values()), alone, "of the interrupted run")
    where = f"killed after step {max(before)}, went on at {min(after)}"
    return f"{where}: loss {after[max(after)]:.4f}, uninterrupted {alone[-1]:.4f}"


def serve(site: Site) -> str:
    """An adapter trained here is registered, served, and answers over HTTP."""
    service = site.service()
    site.size()
    if running := service.running():
        raise Skip(f"the cluster serves {', '.join(running)}, which is left alone: run `--only serve` without it")
    setting, folder = site.setting(), site.folder("serve")
    made = site.group().first(workers.alone, setting, folder / "run", SERVED_STEPS, seconds=MODEL_SECONDS)
    site.release()
    home = folder / "home"
    register(home, workers.adapter(folder / "run"), {"base": str(setting.folder), "base_hash": made.base_hash})
    # On loopback, for a moment, over a home of its own: no key is needed.
    overrides = [f"name={STAGE}", f"serve.port={free_port()}", f"serve.gpus={setting.gpus}", "serve.auth=false"]
    config = load(None, [*overrides, f"model.dtype={setting.dtype}"])
    database = os.environ.pop("VALUEALIGN_DB", None)  # the user's own is no place for this
    try:
        url = service.start(config, home=home)
        try:
            shares = asked(url)
        finally:
            service.stop()
    finally:
        if database is not None:
            os.environ["VALUEALIGN_DB"] = database
    apart = max(abs(a - b) for a, b in zip(shares, made.after, strict=True))
    if apart > SHARES_ALIKE[setting.dtype]:
        what = f"the service's shares differ by {apart:.3f} from those that the adapter had in training"
        raise ModelError(what, where=url, mend="report this model; its adapter is not read as it was written")
    moved = max(abs(a - b) for a, b in zip(made.before, made.after, strict=True))
    return f"answered at {url}; shares within {apart:.1g} of training (which had moved them by {moved:.2g})"


def register(home: Path, folder: Path, card: Mapping[str, str]) -> None:
    """Register an adapter in a home of its own and make it champion."""
    from valuealign.registry import Registry
    from valuealign.store import Store

    home.mkdir(parents=True)
    store = Store.open(home / "valuealign.db")
    try:
        registry = Registry(home / "registry", store)
        version = registry.register(folder, name=STAGE, card=card)
        registry.move(STAGE, "champion", version, expected=None, who=STAGE, why="preflight")
    finally:
        store.close()


def asked(url: str) -> list[float]:
    """The shares [K] that the service answers the first question with. Raises ModelError."""
    import httpx

    body = {"model": STAGE, "item": QUESTIONS[0], "options": list(OPTIONS)}
    answer = httpx.post(f"{url}/v1/distributions", json=body, timeout=120, trust_env=False)
    if answer.status_code != 200:
        raise ModelError(f"HTTP {answer.status_code}: {answer.text[:200]}", where=url, mend=RAY_LOGS)
    shares = answer.json()["distributions"][0]["shares"]
    return [float(shares[option]) for option in OPTIONS]


def alike(setting: Setting, losses: list[float], wanted: list[float], where: str) -> None:
    """Raises ModelError where losses differ by more than rounding explains."""
    if len(losses) != len(wanted):
        raise ModelError(f"{len(losses)} steps were done {where}, not {len(wanted)}", mend=RAY_LOGS)
    apart = [abs(a - b) for a, b in zip(losses, wanted, strict=True)]
    if worst := [off for off in apart if not off <= setting.same]:  # NaN too, which is no larger than anything
        what = f"the loss {where} is off by {worst[-1]:.3g} (rounding explains {setting.same:g})"
        raise ModelError(what, mend="report it with this table; do not start a long run on this box")


def told(setting: Setting) -> str:
    """The model and its precision, in words."""
    return f"{'a tiny model' if setting.tiny else setting.folder.name} in {setting.dtype}"


def counted(words: list[str]) -> list[str]:
    """Each text once, with how often it was said if that is more than once."""
    times = {word: words.count(word) for word in words}
    return [f"{count} x {word}" if count > 1 else word for word, count in times.items()]


def free_port() -> int:
    """A free port of the loopback interface, outside those that Ray's workers take."""
    for port in range(20000, 32000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise ClusterError("no port from 20000 to 31999 is free", mend="end what listens there")


CHECKS: dict[str, Check] = {
    "packages": Check("are they as pinned?", packages.SETUP, versions),
    "ray": Check("does a cluster answer, with the box's GPUs?", f"`ray status` shows the cluster; {RAY_LOGS}", ray),
    "storage": Check(
        "do all workers write where the others read?",
        "put VALUEALIGN_HOME on a folder that all boxes share and you may write to",
        storage,
        ("ray",),
    ),
    "device": Check(
        "does torch compute on it?",
        "`nvidia-smi` must show the GPU and a driver; see docs/cluster.md",
        device,
        ("ray",),
    ),
    "deepspeed": Check("does it load, for the right device?", packages.SETUP, deepspeed, ("ray", "device")),
    "collectives": Check(
        "do the workers add up together?",
        "NCCL_DEBUG=INFO tells what it tries; NCCL_SOCKET_IFSTAGE (GLOO_SOCKET_IFSTAGE) names the network interface",
        collectives,
        ("ray", "device"),
    ),
    "packing": Check("are packed scores the dense ones?", "report this model", packing, ("ray", "device")),
    "zero3": Check(
        "is a step in pieces the same step?",
        "train with train.zero=2 meanwhile",
        zero3,
        ("ray", "device", "deepspeed", "collectives"),
    ),
    "resume": Check(
        "does a run survive the death of a worker?", RAY_LOGS, resume, ("ray", "storage", "device", "deepspeed")
    ),
    "serve": Check("does an adapter answer over HTTP?", RAY_LOGS, serve, ("ray", "device")),
}
