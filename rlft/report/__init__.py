"""A run folder as one HTML page that asks nothing of the network: `rlft report RUN`, `rlft.report.write.write_report`.

    run.py              what a run folder holds, whichever method wrote it
    sections of figures curves.py results.py settings.py rewards.py dropped.py contents.py
    rollouts            item.py is what the page shows of one; from_record.py (GRPO), from_rounds.py (EM) and
                        from_replay.py (STOC) read them; pack.py compresses them into the page, viewer.js shows them
    write.py            the page, within the limits of choose.py

Imports no torch.
"""
