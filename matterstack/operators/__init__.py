"""How work gets done. Operators get values and give values; they never see the ledger."""
