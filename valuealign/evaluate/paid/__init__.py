"""What alignment cost: refusals, plain text and form (``sheets``), distance from the base (``kl``), ``capability``."""
