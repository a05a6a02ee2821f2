"""valuealign: align language models to the values that a population states in surveys.

Surveys are read, weighted and tabulated into target shares (``surveys``, ``weighting``, ``population``, ``splits``);
``signals`` turns targets, preferences and feedback into cells, on which ``objectives`` and ``engine`` train what
``models`` loads. ``evaluate`` and ``report`` judge against people held out, ``store``, ``registry`` and ``loop`` keep
versions and learn from corrections, and ``cluster`` runs it all on Ray. The package itself imports none of its rooms.
"""
