"""Versions are attached beside the serving ones before anybody asks for them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from serve.engine import WHOLE, Batcher
from valuealign.errors import ValuealignError
from valuealign.loop.canary import out
from valuealign.models.trained import is_whole
from valuealign.registry import Registry, Version

LOOK = 1.0  # seconds between looks
log = logging.getLogger("valuealign.serve")


class Warm:
    """Keeps ready what may be asked for next, so that a promotion or a rollback makes nobody wait: the champion,
    a canary, the champion's predecessor, and the version that was registered last. Of full fine-tunes the first two
    of them."""

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
        champion = self._registry.get(f"{self._name}@champion")
        serving = [champion, *self._if_there(out), *self._if_there(Registry.previous)]
        self._backend.pin(one.id for one in serving)
        wanted = {one.id: one for one in (*serving, *self._if_there(_newest))}.values()
        # Full fine-tunes bring all weights each: the memory is for what serves, and one more.
        most = WHOLE if any(is_whole(one.path) for one in wanted) else None
        for version in list(wanted)[:most]:
            try:
                self._backend.attach(self._registry.get(version.ref))
            except ValuealignError as error:
                log.warning("not kept warm: %s", error)
        self._seen = seen

    def _if_there(self, find: Callable[[Registry, str], Version | None]) -> list[Version]:
        """What is found, if anything; a version whose folder is gone keeps nobody from serving the others."""
        try:
            found = find(self._registry, self._name)
        except ValuealignError as error:
            log.warning("not kept warm: %s", error)
            return []
        return [] if found is None else [found]


def _newest(registry: Registry, name: str) -> Version | None:
    return registry.versions(name)[-1]
