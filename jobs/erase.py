"""Erase a person: what they asked, were answered and said, and say which versions had learned from it.

    python jobs/erase.py PERSON
    python jobs/erase.py PERSON --dry-run     # say what would go, touch nothing
    python jobs/erase.py --list               # earlier receipts, and what serves now
    python jobs/erase.py --weights demo@v3 --weights demo@v4      # remove what these versions learned; cards stay

PERSON is the id that came with their requests or feedback. The receipt is printed, and kept without the id.
What a version has learned, only training anew takes out of what serves: python jobs/update.py -c run.yaml --rebuild
Then --weights removes the files of those that no alias points at. Their cards still say what learned what.
"""

from __future__ import annotations

import getpass

import click
from _job import keep_lines, open_registry, say, user_errors

from valuealign.errors import StoreError
from valuealign.loop import Receipt, erase, trace
from valuealign.registry import Registry


@click.command(help=keep_lines(__doc__))
@click.argument("person", required=False)
@click.option("--key", help="an Idempotency-Key: the same one again gives the same receipt")
@click.option("--list", "listing", is_flag=True, help="show earlier receipts, and what serves now")
@click.option("--weights", metavar="VERSION", multiple=True, help="remove a version's weights, not its card")
@click.option("--dry-run", is_flag=True, help="say what would go and touch nothing")
def erase_person(person: str | None, key: str | None, listing: bool, weights: tuple[str, ...], dry_run: bool) -> None:
    with user_errors():
        registry = open_registry()
        if listing:
            for erased in registry.store.erasures():
                show(trace(erased, registry))
            return
        if weights:
            if person:
                raise StoreError("a person and versions", where=person, mend="erase the person first, then the weights")
            remove(registry, weights, dry_run)
            return
        if not person:
            raise StoreError("nobody is named", where="PERSON", mend="give the id that came with their requests")
        if dry_run:
            would(registry, person)
            return
        show(erase(person, store=registry.store, registry=registry, who=getpass.getuser(), key=key))


def remove(registry: Registry, refs: tuple[str, ...], dry_run: bool) -> None:
    """Take the weights out of versions."""
    for ref in refs:
        if dry_run:
            say(f"(dry run) the weights of {registry.get(ref).ref} would go")
            continue
        say(f"{registry.erase_weights(ref, who=getpass.getuser()).ref}: the weights are gone, the card stays")


def would(registry: Registry, person: str) -> None:
    """How much of the person's own feedback there is (what was asked and answered goes too)."""
    count, after = 0, None
    while True:
        page = registry.store.page_feedback(person=person, limit=500, after=after)
        count, after = count + len(page.items), page.next
        if after is None:
            break
    say(f"(dry run) {count} feedback items, and all that the person asked and was answered")


def show(receipt: Receipt) -> None:
    """A receipt, line by line."""
    gone = ", ".join(f"{count} {table}" for table, count in receipt.rows.items()) or "nothing"
    say(f"{receipt.id}  {receipt.created}  erased: {gone}" + (" (said before)" if receipt.replayed else ""))
    for title, found in (
        ("manifests that held it", receipt.manifests),
        ("versions trained on it", receipt.trained),
        ("versions trained from those", receipt.descendants),
    ):
        say(f"  {title}: {', '.join(found) or 'none'}")
    for one in receipt.served:
        say(f"  {one.name}@{one.alias} was {one.version} from {one.start} to {one.end or 'now'}")
    say(f"  {receipt.mend}")


if __name__ == "__main__":
    erase_person()
