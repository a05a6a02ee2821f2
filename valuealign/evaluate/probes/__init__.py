"""Scenario probes: everyday dilemmas with options keyed to values, and what models choose beside what they state.

``file`` reads them, ``places`` asks them, ``figures`` judges the answers, ``stated`` compares them with profiles.
"""
