"""Links to a card: a virtual reader that our card is put into, and a real reader that cards are read with."""
