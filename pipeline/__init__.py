"""Ray lives here: training, scoring, the record. Imports `fastrcnn`; is imported by `jobs`."""
