"""``diwa report``: one page that tells what happened in a run."""
