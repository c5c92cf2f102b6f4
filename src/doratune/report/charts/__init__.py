"""The drawings of the report, by subject. Looks are the style sheet's affair."""
