"""What is on disk: the ledger, its journal, the folders of a run root and its lock."""
