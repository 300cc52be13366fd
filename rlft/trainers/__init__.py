"""One trainer per method, each an annotation of an unmodified TRL trainer."""
