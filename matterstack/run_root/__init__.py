"""run_root."""
