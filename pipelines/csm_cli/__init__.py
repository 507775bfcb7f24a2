"""The command `csm`: its commands, their options, and what they show on a terminal."""
