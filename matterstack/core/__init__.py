"""The decisions: pure functions of recorded state and observations. No files, clock, database or processes."""
