"""What is said in recordings, by whom and when, found in the sound itself: figures only, nothing is left out here."""
