"""How databases of older releases come to hold today's schema: Alembic's revisions, one file each.

A revision is written once and never changed: it speaks of the tables as they were then, so it imports
none of ``tables``. A new one is ``versions/r<NNNN>_<what>.py``, and ``tables.REVISION`` names the newest.
"""
