"""Between the artefacts of a pipeline run and the storage that outlives it."""
