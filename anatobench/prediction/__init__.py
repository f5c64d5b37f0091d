"""A trained model at work on scans that belong to no store."""
