"""Passages for queries: in process (BM25, dense) or over HTTP, behind one protocol."""
