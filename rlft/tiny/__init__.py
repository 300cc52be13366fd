"""The embedded default: everything a run needs on a CPU with no network (tokenizer, model, tasks, warm-up)."""
