"""Where a party keeps its rows: a database whose writer commits in groups and whose sensitive columns are sealed."""
