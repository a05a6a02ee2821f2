"""Look at posted feedback, and let a person decide what may train.

python jobs/review.py                                    # what waits in quarantine
python jobs/review.py --accept fb-1a2b fb-3c4d
python jobs/review.py --accept all                       # everything that waits
python jobs/review.py --decline fb-5e6f --why "spam"
python jobs/review.py --screen                           # look for floods and the like first; -c run.yaml: by its rules
python jobs/review.py --export feedback.parquet          # all of it as a file; --status, --name: only such
"""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any, Literal

import click
from _job import open_store, say, user_errors

from valuealign import config as configuration
from valuealign.errors import StoreError


@click.command(help=str(__doc__).replace("\n\n", "\n\n\b\n"))  # \b: keep the lines
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--accept", is_flag=True, help="accept the named feedback (or 'all') for training")
@click.option("--decline", is_flag=True, help="keep the named feedback (or 'all') out of training")
@click.option("--why", default="", help="kept with the decision, and shown to who posted it")
@click.option(
    "--status",
    type=click.Choice(["quarantined", "accepted", "declined", "used"]),
    help="only feedback that is so far (to look at: what waits; to a file: all)",
)
@click.option("--name", help="only feedback on this model family")
@click.option("--export", type=click.Path(path_type=Path), help="write it with its answers to this Parquet file")
@click.option("--screen", "screening", is_flag=True, help="screen what waits, and keep what is found with it")
@click.option("--config", "-c", "path", type=click.Path(path_type=Path), help="the run's file, for its screening rules")
@click.option("--dry-run", is_flag=True, help="say what would be decided and touch nothing")
def review(
    ids: tuple[str, ...],
    accept: bool,
    decline: bool,
    why: str,
    status: Any,
    name: str | None,
    export: Path | None,
    screening: bool,
    path: Path | None,
    dry_run: bool,
) -> None:
    with user_errors():
        store = open_store()
        if screening and not dry_run:
            from valuealign.loop import take_in  # with all that it imports: listing is quick without

            rules = configuration.load(path).update.intake
            waiting = (*store.list_feedback("quarantined"), *store.list_feedback("accepted"))
            for family in dict.fromkeys(judged.response.name for judged in waiting):
                take_in(store, family, rules)
        if not accept and not decline:
            if ids:
                raise StoreError("no decision given", where=ids[0], mend="add --accept or --decline")
            if export is None:
                show(store, status or "quarantined", name)
            elif dry_run:
                say(f"(dry run) {len(store.list_feedback(status, name=name))} would be written to {export}")
            else:
                say(f"{store.export_feedback(export, status=status, name=name)} written to {export}")
            return
        if export is not None:
            raise StoreError("both a decision and --export", mend="decide first, then export")
        if accept and decline:
            raise StoreError("both --accept and --decline", mend="decide one at a time")
        chosen = list(dict.fromkeys(ids))
        if chosen == ["all"]:
            chosen = [judged.feedback.id for judged in store.list_feedback("quarantined", name=name)]
        if not ids:
            raise StoreError("no feedback named", mend="name ids, or 'all'")
        decision: Literal["accepted", "declined"] = "accepted" if accept else "declined"
        for feedback_id in chosen:
            store.feedback(feedback_id)  # raises for an unknown one, in a dry run too
        if not dry_run and chosen:
            store.review(chosen, decision, who=getpass.getuser(), reason=why)
        told = f"{decision}: {len(chosen)} ({', '.join(chosen)})" if chosen else "nothing waits"
        say(f"(dry run) {told}" if dry_run else told)


def show(store: Any, status: Any, name: str | None) -> None:
    """One piece of feedback after the other: what was asked, answered, and said of it."""
    found = store.list_feedback(status, name=name)
    for judged in found:
        posted, response = judged.feedback, judged.response
        known = " ".join(one for one in (posted.person, posted.key_id, posted.campaign) if one)
        say(f"{posted.id}  {posted.created}  {response.name}@{response.version}  {posted.verdict}  {known}".rstrip())
        for message in response.messages:
            say(f"    {message.role}: {' / '.join(message.content.splitlines())}")
        say(f"    answered: {response.answer}")
        if posted.correction is not None:
            say(f"    corrected to: {posted.correction}")
        if posted.shares is not None:
            shares = ", ".join(f"{option} {share:g}" for option, share in posted.shares.items())
            say(f"    shares: {shares} (n {posted.n:g})")
        if rules := (posted.screened or {}).get("rules"):
            say(f"    screening found: {', '.join(rules)}")
    say(f"{len(found)} {status}")


if __name__ == "__main__":
    review()
