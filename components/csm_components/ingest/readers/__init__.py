"""Readers of corpora, one module a layout, all in one table: `table.READERS`."""
