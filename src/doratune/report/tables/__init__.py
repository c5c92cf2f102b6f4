"""The rows of the report's tables, by subject, figures already in words."""
