"""What a data set is made of, for a person to see: its card, and why a record is in it or not."""
