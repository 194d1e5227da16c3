"""The only place that knows file formats: volumes, particle lists, and names that link the two."""
