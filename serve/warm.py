"""Versions are attached beside the serving ones before anybody asks for them."""

from __future__ import annotations

import logging
import threading
import time

from serve.engine import Batcher
from valuealign.errors import ValuealignError
from valuealign.loop.canary import out
from valuealign.registry import Registry

LOOK = 1.0  # seconds between looks
log = logging.getLogger("valuealign.serve")


class Warm:
    """Keeps ready what may be asked for next, so that a promotion or a rollback makes nobody wait: the champion,
    its predecessor, a canary, and the version that was registered last."""

    def __init__(self, backend: Batcher, registry: Registry, name: str) -> None:
        self._backend, self._registry, self._name = backend, registry, name
        self._seen: object = None

    def start(self) -> None:
        """Look now, and every second as long as the process lives."""
        self.look()
        threading.Thread(target=self._keep_looking, name="warm", daemon=True).start()

    def _keep_looking(self) -> None:
        while True:
            time.sleep(LOOK)
            try:
                self.look()
            except Exception as error:  # the database may be away for a while
                log.warning("no look for new versions: %s", error)

    def look(self) -> None:
        """Attach what is new. What does not belong over the base is logged, and refused when it is asked for."""
        family = self._registry.root / self._name
        seen = (self._registry.store.aliases(self._name), family.stat().st_mtime_ns)
        if seen == self._seen:
            return
        self._seen = seen
        before = self._registry.previous(self._name)
        champion = self._registry.get(f"{self._name}@champion")
        serving = [one for one in (before, out(self._registry, self._name), champion) if one is not None]
        self._backend.pin(one.id for one in serving)
        newest = self._registry.versions(self._name)[-1]
        for version in (newest, *serving):
            try:
                self._backend.attach(self._registry.get(version.ref))
            except ValuealignError as error:
                log.warning("not kept warm: %s", error)
