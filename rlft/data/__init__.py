"""Readers: from a Hub id, a file or an embedded task to rows that a trainer and its rewards understand."""
