"""From a campaign file to a `Campaign` and its instances; used by `init`, `validate` and `refresh` only."""
