"""Forgets a speaker, a recording or an address: what holds any of it goes, and it is never taken again."""
