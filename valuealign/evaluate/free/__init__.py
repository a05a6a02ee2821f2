"""Free answers: the values that they express, and who is preferred, by blind ballots or a judge model by URL."""
