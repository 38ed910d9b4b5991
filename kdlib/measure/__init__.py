"""Numbers about layers and maps, and what they say over seeds."""
