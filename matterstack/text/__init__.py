"""Sentences for people: what reasons and states read as. Nothing here decides anything."""
